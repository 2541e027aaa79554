"""Detects live pictures that no longer change. A camera has noise; a frozen decoder has none.

Pure: the caller passes checksums of pictures and the time.
"""

from __future__ import annotations

import zlib

from streamfleet_worker.video.frame import Picture

FROZEN_AFTER = 10.0  # seconds without any change, after which it is reported
FORGOTTEN = 6.0  # seconds without a picture, after which the state is unknown
_PAUSE = 0.5  # seconds between two checks
_GRID = 32  # rows and columns of the checked pixels


def checksum(picture: Picture) -> int:
    """Checksum of about a thousand pixels, evenly spread over the picture."""
    return zlib.crc32(picture.grid(_GRID))


class FreezeDetector:
    """Tracks the checksums of one live source."""

    def __init__(self) -> None:
        self._seen: int | None = None
        self._since = 0.0  # monotonic seconds, when this checksum appeared
        self._updated_at = float("-inf")  # monotonic seconds

    @property
    def forgets_at(self) -> float:
        """Monotonic seconds until which another picture is needed."""
        return self._updated_at + FORGOTTEN

    def due(self, now: float) -> bool:
        """Whether it is time for another check."""
        return now - self._updated_at >= _PAUSE

    def update(self, seen: int, now: float) -> None:
        """Record the current checksum."""
        if seen != self._seen or now - self._updated_at > FORGOTTEN:
            self._seen, self._since = seen, now
        self._updated_at = now

    def frozen_for(self, now: float) -> float | None:
        """Seconds without any change; None if that is not unusually long."""
        if now - self._updated_at > FORGOTTEN:
            return None
        lasted = self._updated_at - self._since
        return lasted if lasted >= FROZEN_AFTER else None
