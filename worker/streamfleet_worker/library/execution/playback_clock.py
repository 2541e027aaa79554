"""Which frames of a file are shown, and when, if not every one as soon as possible. Pure."""

from __future__ import annotations

_USUAL_FPS = 25.0  # frames/s where a file declares nothing
_SAME = 1e-6  # seconds


class Schedule:
    """Every frame at once; or by the file's own clock: as a camera would show it, or only every so often."""

    def __init__(self, *, native: bool = False, max_fps: float | None = None) -> None:
        """`native`: each frame at its time, but none that is late. `max_fps`: no more than so many."""
        self._native = native
        self._interval = 1 / max_fps if max_fps else 0.0  # seconds of the file
        self._next: float | None = None  # seconds of the file; None before the first frame
        self._began_at: float | None = None  # monotonic seconds, at which the file's clock stood at 0

    def skips(self, media_time: float, fps: float, now: float) -> bool:
        """Whether the frame at this time of the file is left out."""
        if self._native and self._start(media_time, now) + media_time + 1 / (fps or _USUAL_FPS) <= now:
            return True  # the next one is due already
        if not self._interval:
            return False
        due = media_time if self._next is None else self._next
        if media_time < due - _SAME:
            return True
        self._next = max(due, media_time - self._interval) + self._interval
        return False

    def wait(self, media_time: float, now: float) -> float:
        """Seconds until the frame is due."""
        return max(0.0, self._start(media_time, now) + media_time - now) if self._native else 0.0

    def pause(self) -> None:
        """The file's clock stands still until the next frame is asked for."""
        self._began_at = None

    def _start(self, media_time: float, now: float) -> float:
        if self._began_at is None:
            self._began_at = now - media_time
        return self._began_at
