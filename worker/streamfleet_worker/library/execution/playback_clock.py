"""Decides which frames of a file are processed, and when. Pure."""

from __future__ import annotations

_USUAL_FPS = 25.0  # frames/s of a file that declares none
_SAME = 1e-6  # seconds


class Schedule:
    """Every frame as soon as possible; or by the clock of the file, like a camera; or a limited rate."""

    def __init__(self, *, native: bool = False, max_fps: float | None = None) -> None:
        """`native`: each frame at its time, late ones are skipped. `max_fps`: limit of frames per second."""
        self._native = native
        self._interval = 1 / max_fps if max_fps else 0.0  # seconds of the file
        self._next: float | None = None  # seconds of the file; None before the first frame
        self._began_at: float | None = None  # monotonic seconds at time 0 of the file

    def skips(self, media_time: float, fps: float, now: float) -> bool:
        """Whether to skip the frame at this time of the file."""
        if self._native and self._start(media_time, now) + media_time + 1 / (fps or _USUAL_FPS) <= now:
            return True  # the next frame is due already
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
        """Stop the clock of the file until the next frame is requested."""
        self._began_at = None

    def _start(self, media_time: float, now: float) -> float:
        if self._began_at is None:
            self._began_at = now - media_time
        return self._began_at
