"""Is the machine too hot, or slowed down?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamfleet_core.runtime.finding import Finding, error, ok, warning
from streamfleet_worker.host.heat import Throttling, read_temperature, reason
from streamfleet_worker.host.kernel_files import matching, number

_HOT, _TOO_HOT = 85.0, 100.0  # °C; most boards slow down between the two
_COOL = "clean the fan and the air vents, and give it more air; fewer or smaller models need less power"


def check_temperature(root: Path) -> Finding:
    """How hot is the hottest zone?"""
    name, found = "temperature", read_temperature(root)
    if found is None:
        return ok(name, "unknown: the kernel shows no sensor here")
    shown = f"{found:.0f} °C"
    if found >= _TOO_HOT:
        return error(name, f"{shown} is too hot", _COOL)
    if found >= _HOT:
        return warning(name, f"{shown}: it slows down soon", _COOL)
    return ok(name, shown)


def check_throttling(now: Throttling) -> Finding:
    """Is it slowed down, or was it since it was started?"""
    name = "throttling"
    if not now.is_known:
        return ok(name, "unknown: the kernel does not show it here")
    if why := reason(now, now):
        return warning(name, f"slowed down now: {why}", _COOL)
    past = [f"{count} times because {meaning}" for meaning, count in (now.counts or {}).items() if count]
    if past:
        remedy = f"if the number rises while models run: {_COOL}; on Jetson also a stronger power supply"
        return warning(name, f"slowed down since the start: {' and '.join(past)}", remedy)
    return ok(name, "none")


def check_clocks(root: Path) -> Finding:
    """Are the processors allowed their highest frequency?"""
    name, lowered = "cpu clock", list(_lowered(root))
    if not lowered:
        return ok(name, "no limit below the highest frequency")
    limit, most = min(lowered)
    remedy = (
        "on Jetson: sudo nvpmodel -m 0 && sudo jetson_clocks; elsewhere: sudo cpupower frequency-set -u MAX"
    )
    return warning(name, f"{len(lowered)} cores: limited to {limit} of {most} MHz", remedy)


def _lowered(root: Path) -> Iterator[tuple[int, int]]:
    """The limit and the highest frequency in MHz, of each core that is limited."""
    for folder in matching(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq"):
        limit, most = number(folder / "scaling_max_freq"), number(folder / "cpuinfo_max_freq")
        if limit is not None and most is not None and limit < most:
            yield limit // 1000, most // 1000
