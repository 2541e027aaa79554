"""At most so many frames a second, on average. Pure: the clock comes in."""

from __future__ import annotations


class Pace:
    """Frames become due at even intervals; a pause does not save up a burst of more than one."""

    def __init__(self, max_fps: float | None) -> None:
        self._interval = 1.0 / max_fps if max_fps else 0.0  # seconds
        self._due = 0.0  # monotonic seconds

    def wait(self, now: float) -> float:
        """Seconds until a frame may go; 0 when one may go now."""
        return max(0.0, self._due - now)

    def went(self, now: float) -> None:
        """A frame went now."""
        # Counting on from when it was due, not from when it went, keeps the average where it should be.
        self._due = max(self._due, now - self._interval) + self._interval
