"""Even beats for what is drawn live: a camera that does not exist has no frame before its time."""

from __future__ import annotations

import time


class Metronome:
    """So many beats a second; who comes late gets at most one at once, not all that were missed."""

    def __init__(self, fps: float) -> None:
        self._interval = 1 / fps  # seconds
        self._due = time.monotonic()

    def wait(self) -> None:
        """Until the next beat."""
        now = time.monotonic()
        self._due = max(self._due + self._interval, now - self._interval)
        time.sleep(max(0.0, self._due - now))
