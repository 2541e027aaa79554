"""How much there is of the machine, and how busy it is: read from the kernel, for the device's status."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """One look at it."""

    cores: int
    load: float  # processes that run or want to, over the last minute
    memory: int  # bytes
    memory_available: int  # bytes that programs may still have


def look() -> Machine:
    """How it is now."""
    memory = parse_memory(_MEMORY.read_text())
    return Machine(
        cores=os.cpu_count() or 0,
        load=os.getloadavg()[0],
        memory=memory.get("MemTotal", 0),
        memory_available=memory.get("MemAvailable", 0),
    )


def parse_memory(text: str) -> dict[str, int]:
    """Name → bytes, of the lines of /proc/meminfo that are amounts of memory."""
    amounts = {}
    for line in text.splitlines():
        name, _, amount = line.partition(":")
        number, _, unit = amount.strip().partition(" ")
        if unit == "kB":
            amounts[name] = int(number) * 1024
    return amounts
