"""File descriptors of this process: raises the limit, and warns before none are left."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from dataclasses import dataclass

logger = logging.getLogger(__name__)

ALARM = 0.8  # of the limit
_OVER = 0.7  # of the limit: below it the alarm ends
_INTERVAL = 5.0  # seconds between two readings


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The number of open file descriptors, and the limit."""

    open: int
    limit: int

    def __str__(self) -> str:
        return f"{self.open} of {self.limit} file descriptors are open"


def raise_limit() -> None:
    """Let this process and its children open as many files as the kernel allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def read_descriptors() -> Descriptors:
    """Count the open file descriptors of this process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        count = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (takes a third of the time of iterdir)
    except OSError as exc:  # counting needs a descriptor itself
        if exc.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        count = limit
    return Descriptors(count, limit)


class Alarm:
    """An alarm that starts at 80 % of the limit and ends below 70 %. Pure."""

    def __init__(self) -> None:
        self.is_on = False

    def update(self, seen: Descriptors) -> bool:
        """Return whether the alarm has just started or ended."""
        was_on, share = self.is_on, seen.open / seen.limit
        self.is_on = share >= (_OVER if was_on else ALARM)
        return self.is_on is not was_on


class DescriptorWatch:
    """Counts every few seconds, and logs when the alarm starts and ends."""

    def __init__(self) -> None:
        self.seen = read_descriptors()
        self._alarm = Alarm()

    @property
    def warning(self) -> str:
        """The text to show while few are left, otherwise ""."""
        return str(self.seen) if self._alarm.is_on else ""

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            self.seen = read_descriptors()
            if self._alarm.update(self.seen):
                if self._alarm.is_on:
                    logger.error("%s: raise 'ulimit -n' (LimitNOFILE)", self.seen)
                else:
                    logger.info("%s: below the alarm level again", self.seen)
            await asyncio.sleep(_INTERVAL)
