"""The playback positions of one run of a pipeline, in a file that outlives the camera process.

The positions are written to the file at each frame without syncing, so that a killed process loses none. The
file is not mapped: on a full disk that would kill the process. If writing fails, only this process knows the
positions, and `error` says so.
"""

from __future__ import annotations

import logging
import os
from array import array

logger = logging.getLogger(__name__)


class Progress:
    """The id of the last emitted frame of each source. Only one process writes it."""

    def __init__(self, sources: int, descriptor: int = -1) -> None:
        """Without a descriptor, the positions are kept in memory only."""
        self._descriptor = descriptor
        self._positions = array("q", [0] * sources)
        self.error = ""  # for users: why a later process will not know the positions

    @classmethod
    def open(cls, path: str, *, sources: int = 1) -> Progress:
        """Open the positions in a file; they start at 0 if it does not exist or has another size."""
        progress = cls(sources)
        try:
            progress._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            content = os.read(progress._descriptor, progress._size + 1)
            if len(content) == progress._size:
                progress._positions = array("q", content)
            else:
                os.ftruncate(progress._descriptor, 0)
                progress._write()  # detects a failing disk before the first frame
        except OSError as exc:
            progress._failed(exc)
        return progress

    def position(self, source_id: int = 0) -> int:
        """The id of the source's last emitted frame; 0 before the first."""
        return max(0, self._positions[source_id])

    def advance(self, frame_id: int, source_id: int = 0) -> None:
        """Record that this frame of the source was emitted."""
        self._positions[source_id] = frame_id
        if self._descriptor >= 0:
            try:
                self._write()
            except OSError as exc:
                self._failed(exc)

    def close(self) -> None:
        """Close the file."""
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
        error = f"a restart would begin at an earlier frame, the position cannot be written: {exc.strerror}"
        if error != self.error:
            logger.warning("%s", error)
        self.error = error
