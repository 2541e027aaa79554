"""Temperature and throttling, from the files of the kernel.

`root` is the folder that stands for /, so that tests can make machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamfleet_worker.host.kernel_files import matching, number, text

COLDEST, HOTTEST = -100.0, 200.0  # °C; what is outside is no temperature
# Types of cooling devices that slow something down. Fans are cooling devices, too, and slow nothing.
_SLOWING = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "Processor", "gpu")
# Counters of the kernel that rise each time when the hardware slows itself down: of Jetson's protection
# against too high a current, and of Intel's processors.
_COUNTERS = {
    "sys/class/hwmon": ("hwmon*/oc*_event_cnt", "the power supply is too weak for the load (over-current)"),
    "sys/devices/system/cpu": ("cpu*/thermal_throttle/*_throttle_count", "the processor is too hot"),
}


@dataclass(frozen=True, slots=True)
class Throttling:
    """What the kernel shows of it at one moment."""

    active: tuple[str, ...] = ()  # cooling devices that slow something down now
    counts: Mapping[str, int] | None = None  # events since the machine was started, by what they mean

    @property
    def is_known(self) -> bool:
        """Whether this machine shows it at all."""
        return self.counts is not None


def read_temperature(root: Path = Path("/")) -> float | None:
    """The temperature of the hottest zone in °C; None if there is none."""
    found = (number(path) for path in matching(root / "sys/class/thermal", "thermal_zone*/temp"))
    celsius = (each / 1000 for each in found if each is not None)
    return max((each for each in celsius if COLDEST <= each <= HOTTEST), default=None)


def read_throttling(root: Path = Path("/")) -> Throttling:
    """What the kernel shows of throttling now."""
    devices = [
        (text(path.with_name("type")), number(path))
        for path in matching(root / "sys/class/thermal", "cooling_device*/cur_state")
    ]
    slowing = [(kind, state) for kind, state in devices if kind.startswith(_SLOWING) and state is not None]
    counts: dict[str, int] = {}
    for folder, (pattern, meaning) in _COUNTERS.items():
        for path in matching(root / folder, pattern):
            if (count := number(path)) is not None:
                counts[meaning] = counts.get(meaning, 0) + count
    if not slowing and not counts:
        return Throttling()
    return Throttling(tuple(sorted({kind for kind, state in slowing if state > 0})), counts)


def reason(before: Throttling, now: Throttling) -> str:
    """Why the machine is throttled, given an earlier reading; "" if it is not."""
    if now.active:
        return f"too hot: the kernel slows down {', '.join(now.active)}"
    known = before.counts or {}
    return next((name for name, count in (now.counts or {}).items() if count > known.get(name, count)), "")
