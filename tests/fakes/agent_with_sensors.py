"""`streamfleet-worker` on a machine whose sensors are files in `machine` of its data directory, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fakes.patience import PATIENCE

HOLD = 0.5  # seconds that throttling counts after its last sign


def main() -> None:
    from streamfleet_worker import main as program
    from streamfleet_worker.agent import agent, child_processes
    from streamfleet_worker.host import sensors

    def on_this_machine(data_dir: Path) -> sensors.Sensors:
        return sensors.Sensors(data_dir, root=data_dir / "machine")

    child_processes.PRELOAD = ["streamfleet_worker.ipc.forkserver"]
    program.HANG_TIMEOUT = PATIENCE
    sensors.HOLD = HOLD
    setattr(sensors, "_INTERVAL", 0.05)  # noqa: B010
    setattr(agent, "Sensors", on_this_machine)  # noqa: B010 - it imports it
    sys.exit(program.run())


if __name__ == "__main__":
    main()
