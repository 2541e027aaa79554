"""`streamfleet-worker`, the program.

Everything is loaded inside `main`, as each child of the fork server loads this module too.
"""

from __future__ import annotations

import sys

from streamfleet_broker.program import needing


def main() -> None:
    """Ends with 0 after SIGTERM or SIGINT, with 1 and one line where it cannot work."""
    with needing("streamfleet-worker", "worker,cpu", "cv2", "onnxruntime"):
        from streamfleet_worker.entry import run

    sys.exit(run())


if __name__ == "__main__":
    main()
