"""Whether a live picture has stopped moving altogether. A camera has noise; a decoder that froze has none.

Pure: checksums of pictures and the clock come in.
"""

from __future__ import annotations

import zlib

from streamfleet_worker.video.frame import Image

STILL = 10.0  # seconds without any change, until that is worth a word
FORGOTTEN = 3.0  # seconds without a picture, after which nobody knows whether it still stands still
_PAUSE = 0.5  # seconds from one look to the next
_GRID = 32  # rows and columns of the pixels that are looked at


def checksum(image: Image) -> int:
    """Of about a thousand pixels that lie evenly over the picture."""
    height, width = image.shape[:2]
    return zlib.crc32(image[:: max(1, height // _GRID), :: max(1, width // _GRID)].tobytes())


class FreezeDetector:
    """What the last looks at one source have shown."""

    def __init__(self) -> None:
        self._seen: int | None = None
        self._since = 0.0  # monotonic seconds, when it was first seen
        self._looked_at = float("-inf")  # monotonic seconds

    def due(self, now: float) -> bool:
        """Is it time for another look?"""
        return now - self._looked_at >= _PAUSE

    def look(self, seen: int, now: float) -> None:
        """The picture has this checksum now."""
        if seen != self._seen or now - self._looked_at > FORGOTTEN:
            self._seen, self._since = seen, now
        self._looked_at = now

    def frozen_for(self, now: float) -> float | None:
        """Seconds for which nothing has changed; None as long as that is nothing unusual."""
        if now - self._looked_at > FORGOTTEN:
            return None
        lasted = self._looked_at - self._since
        return lasted if lasted >= STILL else None
