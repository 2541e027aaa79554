"""CPU time of processes, from /proc/PID/stat."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


def cpu_times(pids: Iterable[int]) -> dict[int, float]:
    """Return the seconds of CPU time of each living process, user and system, with all of its threads."""
    found = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        found[pid] = (int(fields[11]) + int(fields[12])) * _TICK
    return found


def growth(before: dict[int, float], after: dict[int, float]) -> dict[int, float]:
    """Return the seconds between two readings, by process that lives at the second. Pure."""
    return {pid: seconds - before.get(pid, 0.0) for pid, seconds in after.items()}


def busy_seconds() -> float:
    """Return the seconds of CPU time of all processes, and of the kernel, since the machine started."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) * _TICK
