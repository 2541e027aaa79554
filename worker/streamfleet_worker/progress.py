"""How far one playing of a pipeline has come, in a file that outlives the camera's process.

The position is written by a store into mapped memory, so a process that is killed has lost nothing of it.
"""

from __future__ import annotations

import mmap
import os

_SIZE = 8  # bytes: one little-endian int64


class Progress:
    """The id of the last emitted frame. One process writes it."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._position = memoryview(self._map).cast("q")

    @classmethod
    def open(cls, path: str) -> Progress:
        """The progress in this file, which begins at 0 where there is none yet. Raises: OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size != _SIZE:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, _SIZE)
            return cls(descriptor)
        finally:
            os.close(descriptor)

    @property
    def position(self) -> int:
        """The id of the last emitted frame, 0 before the first."""
        return max(0, self._position[0])

    def advance(self, frame_id: int) -> None:
        """This frame has been emitted."""
        self._position[0] = frame_id

    def close(self) -> None:
        """Give the memory back."""
        self._position.release()
        self._map.close()
