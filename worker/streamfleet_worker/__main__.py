"""`streamfleet-worker`, the program.

Everything is imported inside `main`, because each child of the fork server loads this module too.
"""

from __future__ import annotations

import sys

from streamfleet_core.runtime.startup import needing


def main() -> None:
    """Run the program. Exits with 0 after SIGTERM or SIGINT, with 1 and one line on an error."""
    if sys.argv[1:2] == ["doctor"]:  # also where a package is missing
        from streamfleet_worker.doctor import command

        sys.exit(command.run(sys.argv[2:]))
    with needing("streamfleet-worker", "worker,cpu", "cv2", "onnxruntime"):
        from streamfleet_worker import watchdog

        on_turn = watchdog.supervise() if watchdog.should_supervise(sys.argv[1:]) else _ignore_turn
        if isinstance(on_turn, int):
            sys.exit(on_turn)
        from streamfleet_worker.main import run

    sys.exit(run(on_turn=on_turn))


def _ignore_turn() -> None:
    """Do nothing: this agent is not supervised."""


if __name__ == "__main__":
    main()
