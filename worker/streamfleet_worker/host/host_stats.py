"""Resources of the machine or container and their use, read from the kernel for the device's status."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from streamfleet_core.protocol.costs import Resources
from streamfleet_worker.host.cgroup import Limits, limits

_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class HostStats:
    """The resources at one moment."""

    cores: int
    load: float  # running and runnable processes, average over the last minute
    memory: int  # bytes
    memory_available: int  # bytes that programs can still use


def read_host_stats() -> HostStats:
    """Read the current values."""
    memory, limited = parse_memory(_MEMORY.read_text()), limits()
    return HostStats(
        cores=cores(limited),
        load=os.getloadavg()[0],
        memory=_lower(memory.get("MemTotal", 0), limited.memory),
        memory_available=_lower(memory.get("MemAvailable", 0), limited.memory_available),
    )


def cores(limited: Limits | None = None) -> int:
    """The number of cores that we may use: by our affinity, and by the CPU time of our container."""
    share = (limited or limits()).cores
    allowed = len(os.sched_getaffinity(0))
    return allowed if share is None else max(1, min(allowed, int(share + 0.5)))


def read_resources(board: str, *, is_limited: bool) -> Resources:
    """What this device has for pipelines. `is_limited`: its operator has set how many it may run."""
    share, allowed = limits().cores, len(os.sched_getaffinity(0))
    return Resources(
        board=board,
        cores=float(allowed) if share is None else min(allowed, share),
        memory=read_host_stats().memory_available,
        is_limited=is_limited,
    )


def _lower(amount: int, limit: int | None) -> int:
    return amount if limit is None else min(amount, limit)


def parse_memory(text: str) -> dict[str, int]:
    """Parse the sizes in /proc/meminfo: name → bytes."""
    amounts = {}
    for line in text.splitlines():
        name, _, amount = line.partition(":")
        number, _, unit = amount.strip().partition(" ")
        if unit == "kB":
            amounts[name] = int(number) * 1024
    return amounts
