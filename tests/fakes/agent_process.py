"""`streamfleet-worker` with cameras and engines of children.py, for tests. Loads nothing before it runs."""

from __future__ import annotations

import sys


def main() -> None:
    from streamfleet_worker.agent import supervisor
    from streamfleet_worker.agent.agent import Entries
    from streamfleet_worker.main import run

    children = "tests.fakes.children"
    supervisor.PRELOAD = ["streamfleet_worker.ipc.forkserver", children]  # what a camera needs takes seconds
    sys.exit(run(Entries(f"{children}:camera", f"{children}:engine")))


if __name__ == "__main__":
    main()
