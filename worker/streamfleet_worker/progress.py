"""How far one playing of a pipeline has come, in a file that outlives the camera's process.

The positions are written by stores into mapped memory, so a process that is killed has lost nothing of them.
"""

from __future__ import annotations

import mmap
import os

_SIZE = 8  # bytes a source: one little-endian int64


class Progress:
    """The id of the last emitted frame of each source. One process writes it."""

    def __init__(self, descriptor: int, sources: int) -> None:
        """A descriptor of -1 is memory of this process alone."""
        self._map = mmap.mmap(descriptor, _SIZE * sources)
        self._positions = memoryview(self._map).cast("q")

    @classmethod
    def open(cls, path: str, *, sources: int = 1) -> Progress:
        """The progress in this file, which begins at 0 where there is none of this size. Raises: OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size != _SIZE * sources:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, _SIZE * sources)
            return cls(descriptor, sources)
        finally:
            os.close(descriptor)

    def position(self, source_id: int = 0) -> int:
        """The id of the source's last emitted frame, 0 before the first."""
        return max(0, self._positions[source_id])

    def advance(self, frame_id: int, source_id: int = 0) -> None:
        """This frame of the source has been emitted."""
        self._positions[source_id] = frame_id

    def close(self) -> None:
        """Give the memory back."""
        self._positions.release()
        self._map.close()
