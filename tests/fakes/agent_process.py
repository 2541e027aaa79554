"""`streamfleet-worker` with cameras and engines of children.py, for tests. Loads nothing before it runs."""

from __future__ import annotations

import sys

from tests.fakes.patience import PATIENCE


def main() -> None:
    from streamfleet_worker import main as program
    from streamfleet_worker.agent import child_processes
    from streamfleet_worker.agent.agent import Entries

    children = "tests.fakes.children"
    # Not what a camera needs, which takes seconds.
    child_processes.PRELOAD = ["streamfleet_worker.ipc.forkserver", children]
    program.HANG_TIMEOUT = PATIENCE  # who stops it for a while wants it to go on, and nobody starts it again
    sys.exit(program.run(Entries(f"{children}:camera", f"{children}:engine")))


if __name__ == "__main__":
    main()
