"""`streamfleet-worker` on a Jetson with TensorRT, with cameras of children.py, for tests."""

from __future__ import annotations

import sys

from tests.fakes.patience import PATIENCE


def main() -> None:
    from streamfleet_worker import main as program
    from streamfleet_worker.agent import child_processes
    from streamfleet_worker.agent.agent import Entries

    child_processes.PRELOAD = ["streamfleet_worker.ipc.forkserver"]
    program.HANG_TIMEOUT = PATIENCE
    sys.exit(
        program.run(Entries("tests.fakes.children:camera", "tests.fakes.accelerators:engine_with_tensorrt"))
    )


if __name__ == "__main__":
    main()
