"""How long a live source may be silent: as it declares, and then as its own pictures show. Pure."""

from __future__ import annotations

from collections import deque

FIRST_PICTURE = 30.0  # seconds: keyframes may lie far apart, and how fast a source is must be learned
NEXT_PICTURE = 8.0  # seconds at least
_SLOWER = 3  # times the longest silence of late, until a source counts as lost
_LONGEST = 120.0  # seconds
_KNOWN = 3  # silences from which on they tell something: the first pictures may come in a burst
_KEPT = 8


class Rhythm:
    """Of one source, over all its connections."""

    def __init__(self, first: float | None = None, following: float | None = None) -> None:
        """Seconds; None: what suits the source."""
        self._first = first
        self._following = following
        self._declared = 0.0  # seconds between two pictures; 0: it declares none, or what is not so
        self._believed = True
        self._in_pieces = False
        self._silences: deque[float] = deque(maxlen=_KEPT)  # seconds

    def declares(self, fps: float) -> None:
        """So many pictures a second; 0: nothing."""
        self._declared = 1 / fps if fps > 0 else 0.0

    def was_silent(self) -> None:
        """It was lost because no picture came in time. Perhaps it is slower than it declares."""
        self._believed = False

    def waited(self, seconds: float) -> None:
        """A picture came, after so long."""
        self._silences.append(seconds)

    @property
    def first(self) -> float:
        """Seconds that the first picture of a connection may take."""
        return FIRST_PICTURE if self._first is None else self._first

    def comes_in_pieces(self) -> None:
        """Many pictures at once, and nothing for as long as they last, as by HLS."""
        self._in_pieces = True

    @property
    def following(self) -> float:
        """Seconds that a later one may take."""
        if self._following is not None:
            return self._following
        if self._in_pieces:
            return max(FIRST_PICTURE, NEXT_PICTURE)
        if len(self._silences) >= _KNOWN:
            longest = max(self._silences)
        elif self._declared and self._believed:
            longest = self._declared
        else:
            return max(FIRST_PICTURE, NEXT_PICTURE)
        return min(_LONGEST, max(NEXT_PICTURE, _SLOWER * longest))
