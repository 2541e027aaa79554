"""When a frame may go, and how long it was kept from going. Pure: the clock comes in."""

from __future__ import annotations

from collections import deque

_KEPT = 16  # stretches; more than fall into the time that a frame waits in a buffer


class Pace:
    """Frames become due at even intervals; a pause does not save up a burst of more than one."""

    def __init__(self, max_fps: float | None) -> None:
        self._max_fps = max_fps
        self._due = 0.0  # monotonic seconds
        self._went = 0.0  # monotonic seconds, when the last frame went

    @property
    def due(self) -> float:
        """Monotonic seconds at which the next frame may go."""
        return self._due

    def limit(self, max_fps: float | None) -> None:
        """Keep another pace from now on. Who had to wait for long may not have to any more."""
        self._max_fps = max_fps
        self._due = min(self._due, self._went + self._interval)

    def wait(self, now: float) -> float:
        """Seconds until a frame may go; 0 when one may go now."""
        return max(0.0, self._due - now)

    def went(self, now: float) -> None:
        """A frame went now."""
        # Counting on from when it was due, not from when it went, keeps the average where it should be.
        self._due = max(self._due, now - self._interval) + self._interval
        self._went = now

    @property
    def _interval(self) -> float:
        return 1.0 / self._max_fps if self._max_fps else 0.0  # seconds


class HoldIntervals:
    """The stretches of time in which a file had to wait for its pace or for the end of a pause.

    They are intended, so they are left out of every figure that says how slow something is.
    """

    def __init__(self) -> None:
        self._stretches: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # apart, and in order

    def add(self, start: float, end: float) -> None:
        """Monotonic seconds. What overlaps a stretch from before counts once."""
        if self._stretches:
            start = max(start, self._stretches[-1][1])
        if end > start:
            self._stretches.append((start, end))

    def within(self, start: float, end: float) -> float:
        """The seconds of this stretch of time that were such waiting."""
        overlaps = (min(end, until) - max(start, since) for since, until in self._stretches)
        return sum(overlap for overlap in overlaps if overlap > 0)
