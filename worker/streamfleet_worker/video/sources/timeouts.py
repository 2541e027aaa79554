"""Timeouts of a live source: from its declared frame rate, then from its measured pauses. Pure."""

from __future__ import annotations

from collections import deque

FIRST_PICTURE = 30.0  # seconds: keyframes may be far apart, and the frame rate must be learned
NEXT_PICTURE = 8.0  # seconds, the minimum
_SLOWER = 3  # times the longest recent pause, after which a source counts as lost
_LONGEST = 120.0  # seconds
_KNOWN = 3  # pauses needed for an estimate: the first pictures may arrive in a burst
_KEPT = 8  # pauses


class FrameTimeouts:
    """The timeouts of one source, learned over all its connections."""

    def __init__(self, first: float | None = None, following: float | None = None) -> None:
        """Fixed timeouts in seconds; None: learned."""
        self._first = first
        self._following = following
        self._declared = 0.0  # seconds between two pictures; 0: unknown
        self._trusts_declared = True
        self._segmented = False
        self._pauses: deque[float] = deque(maxlen=_KEPT)  # seconds

    def declares(self, fps: float) -> None:
        """Set the declared frame rate; 0: unknown."""
        self._declared = 1 / fps if fps > 0 else 0.0

    def timed_out(self) -> None:
        """Record a timeout. The source may be slower than it declares."""
        self._trusts_declared = False

    def waited(self, seconds: float) -> None:
        """Record the pause before a picture, in seconds."""
        self._pauses.append(seconds)

    @property
    def first(self) -> float:
        """Seconds to wait for the first picture of a connection."""
        return FIRST_PICTURE if self._first is None else self._first

    def mark_segmented(self) -> None:
        """Mark it as segmented, as HLS: pictures arrive in bursts, with pauses in between."""
        self._segmented = True

    @property
    def following(self) -> float:
        """Seconds to wait for a later picture."""
        if self._following is not None:
            return self._following
        if self._segmented:
            return max(FIRST_PICTURE, NEXT_PICTURE)
        if len(self._pauses) >= _KNOWN:
            longest = max(self._pauses)
        elif self._declared and self._trusts_declared:
            longest = self._declared
        else:
            return max(FIRST_PICTURE, NEXT_PICTURE)
        return min(_LONGEST, max(NEXT_PICTURE, _SLOWER * longest))
