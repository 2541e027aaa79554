"""Paces frames, and measures how long they were held. Pure: the caller passes the time."""

from __future__ import annotations

from collections import deque

_KEPT = 16  # intervals; more than occur while a frame waits in a buffer


class Pace:
    """Limits the frame rate: frames become due at even intervals, without bursts after a pause."""

    def __init__(self, max_fps: float | None) -> None:
        self._max_fps = max_fps
        self._due = 0.0  # monotonic seconds
        self._went = 0.0  # monotonic seconds, when the last frame passed

    @property
    def due(self) -> float:
        """Monotonic seconds, when the next frame may pass."""
        return self._due

    @property
    def interval(self) -> float:
        """Seconds from one frame to the next, at least; 0: no limit."""
        return 1.0 / self._max_fps if self._max_fps else 0.0

    def limit(self, max_fps: float | None) -> None:
        """Set another limit. A wait that was long under the old limit is shortened."""
        self._max_fps = max_fps
        self._due = min(self._due, self._went + self.interval)

    def wait(self, now: float) -> float:
        """Seconds until a frame may pass; 0 if one may pass now."""
        return max(0.0, self._due - now)

    def went(self, now: float) -> None:
        """Record that a frame has passed."""
        # Count from when it was due, not from when it passed: this keeps the average rate.
        self._due = max(self._due, now - self.interval) + self.interval
        self._went = now


class HoldIntervals:
    """The intervals in which a file waited for its pace or for the end of a pause.

    They are intended, so all latencies exclude them.
    """

    def __init__(self) -> None:
        self._intervals: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # disjoint, and in order

    def add(self, start: float, end: float) -> None:
        """Add an interval in monotonic seconds. Overlaps with earlier ones count once."""
        if self._intervals:
            start = max(start, self._intervals[-1][1])
        if end > start:
            self._intervals.append((start, end))

    def within(self, start: float, end: float) -> float:
        """The seconds between two times that were spent in such intervals."""
        overlaps = (min(end, until) - max(start, since) for since, until in self._intervals)
        return sum(overlap for overlap in overlaps if overlap > 0)
