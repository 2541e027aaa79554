"""The fence: the time until which pipelines that may be moved to another device are allowed to emit.

The agent writes it; every emitter reads it directly before each send. It is eight bytes of shared memory, so
that a stopped agent cannot leave its cameras emitting: the fence expires. It is not on a disk: writing to a
mapped file on a full disk kills the process.
"""

from __future__ import annotations

import mmap
import os

_SIZE = 8  # bytes: one little-endian float64


class Fence:
    """A time in CLOCK_BOOTTIME seconds, read and written as single moves of eight bytes."""

    def __init__(self, descriptor: int) -> None:
        """The fence takes ownership of the descriptor."""
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, _SIZE)
        self._until = memoryview(self._map).cast("d")

    @classmethod
    def create(cls) -> Fence:
        """Create a closed fence. Raises: OSError."""
        descriptor = os.memfd_create("streamfleet-fence", os.MFD_CLOEXEC)
        os.posix_fallocate(descriptor, 0, _SIZE)
        return cls(descriptor)

    @classmethod
    def open(cls, path: str) -> Fence:
        """Open a fence. Raises: OSError if there is none, ValueError if the file is too short."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(descriptor)
        except ValueError:
            os.close(descriptor)
            raise

    @property
    def path(self) -> str:
        """The path where processes of our user open it, while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def extend(self, until: float) -> None:
        """Allow emissions until a time in CLOCK_BOOTTIME seconds; 0 closes the fence."""
        self._until[0] = until

    def passes(self, now: float) -> bool:
        """Whether emitting is allowed at `now`, CLOCK_BOOTTIME seconds."""
        return now < self._until[0]

    def close(self) -> None:
        """Release the memory."""
        self._until.release()
        self._map.close()
        os.close(self._descriptor)
