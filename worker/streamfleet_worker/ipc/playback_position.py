"""How far one playing of a pipeline has come, in a file that outlives the camera's process.

The positions are written to the file at each frame and not synced, so a process that is killed has lost
nothing of them. They are not mapped: on a full disk that would kill the process. There they are known to this
process alone, and that is said.
"""

from __future__ import annotations

import logging
import os
from array import array

logger = logging.getLogger(__name__)


class Progress:
    """The id of the last emitted frame of each source. One process writes it."""

    def __init__(self, sources: int, descriptor: int = -1) -> None:
        """Without a descriptor it is known to this process alone."""
        self._descriptor = descriptor
        self._positions = array("q", [0] * sources)
        self.error = ""  # why a later process will not know of it, for people

    @classmethod
    def open(cls, path: str, *, sources: int = 1) -> Progress:
        """The progress in this file, which begins at 0 where there is none of this size."""
        progress = cls(sources)
        try:
            progress._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            content = os.read(progress._descriptor, progress._size + 1)
            if len(content) == progress._size:
                progress._positions = array("q", content)
            else:
                os.ftruncate(progress._descriptor, 0)
                progress._write()  # here is said what is wrong, before the first frame
        except OSError as exc:
            progress._failed(exc)
        return progress

    def position(self, source_id: int = 0) -> int:
        """The id of the source's last emitted frame, 0 before the first."""
        return max(0, self._positions[source_id])

    def advance(self, frame_id: int, source_id: int = 0) -> None:
        """This frame of the source has been emitted."""
        self._positions[source_id] = frame_id
        if self._descriptor >= 0:
            try:
                self._write()
            except OSError as exc:
                self._failed(exc)

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def _size(self) -> int:
        return len(self._positions) * self._positions.itemsize

    def _write(self) -> None:
        os.pwrite(self._descriptor, self._positions, 0)
        self.error = ""

    def _failed(self, exc: OSError) -> None:
        error = f"a restart would begin at an earlier frame, its place cannot be written: {exc.strerror}"
        if error != self.error:
            logger.warning("%s", error)
        self.error = error
