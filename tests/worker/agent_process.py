"""`streamfleet-worker` with cameras and engines of children.py, for tests. Loads nothing before it runs."""

from __future__ import annotations

import sys


def main() -> None:
    from streamfleet_worker.agent import Entries
    from streamfleet_worker.entry import run

    children = "tests.worker.children"
    sys.exit(run(Entries(f"{children}:camera", f"{children}:engine")))


if __name__ == "__main__":
    main()
