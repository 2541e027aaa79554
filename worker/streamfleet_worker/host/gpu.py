"""Load and power of a Jetson's GPU, from the files of its kernel. `root` stands for /."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamfleet_worker.host.kernel_files import matching, number, text

_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")  # per mille
_MONITOR = "ina3221"  # the chip that measures a Jetson's power
_MOST_RAILS = 3


@dataclass(frozen=True, slots=True)
class GpuStats:
    """The use of the GPU; None: unknown."""

    load: float | None = None  # 0..1
    power: float | None = None  # watts of the rail that it shares with other units


def read_jetson_gpu(root: Path = Path("/")) -> GpuStats:
    """Read the current values."""
    found = (number(root / name) for name in _LOADS)
    load = next((each / 1000 for each in found if each is not None and 0 <= each <= 1000), None)
    return GpuStats(load, _power(root))


def _power(root: Path) -> float | None:
    for chip in matching(root / "sys/class/hwmon", "hwmon*"):
        if text(chip / "name") != _MONITOR:
            continue
        for rail in range(1, _MOST_RAILS + 1):
            millivolts, milliamperes = number(chip / f"in{rail}_input"), number(chip / f"curr{rail}_input")
            if (
                "GPU" in text(chip / f"in{rail}_label")
                and millivolts is not None
                and milliamperes is not None
            ):
                return millivolts * milliamperes / 1e6
    return None
