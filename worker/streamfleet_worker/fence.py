"""The fence: until when the pipelines that may run elsewhere next are allowed to emit.

The agent writes it, every emitter reads it directly before each send. It is eight bytes of memory shared by
way of a file, so a stopped agent cannot leave its cameras emitting: time goes on and the fence does not.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

_SIZE = 8  # bytes: one little-endian float64


def boot_time() -> float:
    """Seconds of CLOCK_BOOTTIME, which goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """One instant in CLOCK_BOOTTIME seconds, read and written by single moves of eight bytes."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._until = memoryview(self._map).cast("d")

    @classmethod
    def create(cls, path: str) -> Fence:
        """A closed fence in a new file. Who has the old one open keeps it, and it is never extended."""
        draft = f"{path}.new"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            fence = cls(descriptor)
        finally:
            os.close(descriptor)
        Path(draft).replace(path)
        return fence

    @classmethod
    def open(cls, path: str) -> Fence:
        """Raises: OSError when there is no such file, ValueError when it is shorter than a fence."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(descriptor)
        finally:
            os.close(descriptor)

    def extend(self, until: float) -> None:
        """Let pass until then, CLOCK_BOOTTIME seconds; 0 closes the fence."""
        self._until[0] = until

    def passes(self, now: float) -> bool:
        """Whether something may be emitted at `now`, CLOCK_BOOTTIME seconds."""
        return now < self._until[0]

    def close(self) -> None:
        """Give the memory back."""
        self._until.release()
        self._map.close()
