"""The clock of leases."""

from __future__ import annotations

import time


def boot_time() -> float:
    """Seconds of CLOCK_BOOTTIME. It also counts while the machine is suspended, and no date moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
