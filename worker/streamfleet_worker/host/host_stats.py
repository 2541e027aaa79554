"""How much of the machine is ours, and how busy it is: read from the kernel, for the device's status."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from streamfleet_worker.host.cgroup import Limits, limits

_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """One look at it."""

    cores: int
    load: float  # processes that run or are ready to, over the last minute
    memory: int  # bytes
    memory_available: int  # bytes that programs may still have


def look() -> Machine:
    """How it is now."""
    memory, limited = parse_memory(_MEMORY.read_text()), limits()
    return Machine(
        cores=cores(limited),
        load=os.getloadavg()[0],
        memory=_lower(memory.get("MemTotal", 0), limited.memory),
        memory_available=_lower(memory.get("MemAvailable", 0), limited.memory_available),
    )


def cores(limited: Limits | None = None) -> int:
    """How many we may keep busy: those that we may run on, or as much time as our container gets."""
    share = (limited or limits()).cores
    allowed = len(os.sched_getaffinity(0))
    return allowed if share is None else max(1, min(allowed, int(share + 0.5)))


def _lower(amount: int, limit: int | None) -> int:
    return amount if limit is None else min(amount, limit)


def parse_memory(text: str) -> dict[str, int]:
    """Name → bytes, of the lines of /proc/meminfo that are amounts of memory."""
    amounts = {}
    for line in text.splitlines():
        name, _, amount = line.partition(":")
        number, _, unit = amount.strip().partition(" ")
        if unit == "kB":
            amounts[name] = int(number) * 1024
    return amounts
