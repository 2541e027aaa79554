"""`streamfleet-worker`, the program.

Everything is loaded inside `main`, as each child of the fork server loads this module too.
"""

from __future__ import annotations

import sys

from streamfleet_core.runtime.program import needing


def main() -> None:
    """Ends with 0 after SIGTERM or SIGINT, with 1 and one line where it cannot work."""
    with needing("streamfleet-worker", "worker,cpu", "cv2", "onnxruntime"):
        from streamfleet_worker import watchdog

        kept = watchdog.keep() if watchdog.is_wanted(sys.argv[1:]) else _unheard
        if isinstance(kept, int):
            sys.exit(kept)
        from streamfleet_worker.main import run

    sys.exit(run(on_turn=kept))


def _unheard() -> None:
    """For an agent that nobody watches."""


if __name__ == "__main__":
    main()
