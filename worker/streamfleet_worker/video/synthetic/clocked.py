"""Live sources that are drawn: a camera that does not exist has no frame before its time."""

from __future__ import annotations

import time
from collections.abc import Callable

from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.sources.capture import Capture


class DrawnCapture(Capture):
    """Plays what is drawn frame by frame, at its own pace, from a frame onwards.

    Args:
        draw: makes the picture of a frame, in the memory that it is given, if any.
    """

    finite = False
    total_frames = -1

    def __init__(
        self,
        draw: Callable[[int, Image | None], Image],
        *,
        width: int,
        height: int,
        fps: float,
        first_frame_id: int,
    ) -> None:
        self.width, self.height, self.fps = width, height, fps
        self._draw = draw
        self._frame_id = first_frame_id - 1
        self._metronome = _Metronome(fps)

    def grab(self) -> bool:
        """Wait for the next frame's time."""
        self._metronome.wait()
        self._frame_id += 1
        return True

    def retrieve(self, into: Image | None) -> Image | None:
        """The picture that was grabbed last."""
        fits = into is not None and into.shape == (self.height, self.width, 3)
        return self._draw(self._frame_id, into if fits else None)

    def close(self) -> None:
        """There is nothing to give back."""


class _Metronome:
    """So many beats a second; who comes late gets at most one at once, not all that were missed."""

    def __init__(self, fps: float) -> None:
        self._interval = 1 / fps  # seconds
        self._due = time.monotonic()

    def wait(self) -> None:
        """Until the next beat."""
        now = time.monotonic()
        self._due = max(self._due + self._interval, now - self._interval)
        time.sleep(max(0.0, self._due - now))
