"""The fence: until when the pipelines that may run elsewhere next are allowed to emit.

The agent writes it, every emitter reads it directly before each send. It is eight bytes of shared memory, so
a stopped agent cannot leave its cameras emitting: time goes on and the fence does not. It is on no disk, as a
mapped file on a full one kills whoever writes to it.
"""

from __future__ import annotations

import mmap
import os
import time

_SIZE = 8  # bytes: one little-endian float64


def boot_time() -> float:
    """Seconds of CLOCK_BOOTTIME, which goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """One instant in CLOCK_BOOTTIME seconds, read and written by single moves of eight bytes."""

    def __init__(self, descriptor: int) -> None:
        """The descriptor is the fence's own from now on."""
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, _SIZE)
        self._until = memoryview(self._map).cast("d")

    @classmethod
    def create(cls) -> Fence:
        """A closed fence, which nobody has open yet. Raises: OSError."""
        descriptor = os.memfd_create("streamfleet-fence", os.MFD_CLOEXEC)
        os.posix_fallocate(descriptor, 0, _SIZE)
        return cls(descriptor)

    @classmethod
    def open(cls, path: str) -> Fence:
        """Raises: OSError when there is no such fence, ValueError when it is shorter than one."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(descriptor)
        except ValueError:
            os.close(descriptor)
            raise

    @property
    def path(self) -> str:
        """Where processes of our user open it, for as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

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
        os.close(self._descriptor)
