"""File descriptors of this process: as many as the kernel allows, and an alarm before there is none left."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from dataclasses import dataclass

logger = logging.getLogger(__name__)

ALARM = 0.8  # of the limit
_OVER = 0.7  # of the limit, below which the alarm ends
_INTERVAL = 5.0  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Descriptors:
    """How many are open, of how many."""

    open: int
    limit: int

    def __str__(self) -> str:
        return f"{self.open} of {self.limit} file descriptors are open"


def raise_limit() -> None:
    """Let this process and its children open as many files as the kernel allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def look() -> Descriptors:
    """How things stand now."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Descriptors(len(os.listdir("/proc/self/fd")), limit)  # noqa: PTH208 (a third of the time)


class Alarm:
    """Begins at 80 % of the limit and ends below 70 %. Pure."""

    def __init__(self) -> None:
        self.is_on = False

    def see(self, seen: Descriptors) -> bool:
        """Has it just begun or ended?"""
        was_on, share = self.is_on, seen.open / seen.limit
        self.is_on = share >= (_OVER if was_on else ALARM)
        return self.is_on is not was_on


class DescriptorWatch:
    """Looks every few seconds, and logs when the alarm begins and ends."""

    def __init__(self) -> None:
        self.seen = look()
        self._alarm = Alarm()

    @property
    def warning(self) -> str:
        """While few are left."""
        return str(self.seen) if self._alarm.is_on else ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.seen = look()
            if self._alarm.see(self.seen):
                if self._alarm.is_on:
                    logger.error("%s: raise 'ulimit -n' (LimitNOFILE)", self.seen)
                else:
                    logger.info("%s: enough are left again", self.seen)
            await asyncio.sleep(_INTERVAL)
