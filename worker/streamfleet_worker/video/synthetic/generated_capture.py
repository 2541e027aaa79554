"""Generated live sources, which deliver each frame at its time, and draw it only when it is needed."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

from streamfleet_worker.video.array_picture import grid_of, resized, smoothed
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.overview import overview_of


class GeneratedCapture(Capture):
    """A source that draws each frame at a fixed frame rate, starting with a given frame.

    Args:
        draw: draws a frame by its number. It is called by one thread at a time.
    """

    finite = False
    total_frames = -1

    def __init__(
        self,
        draw: Callable[[int], Image],
        *,
        width: int,
        height: int,
        fps: float,
        first_frame_id: int,
    ) -> None:
        self.width, self.height, self.fps = width, height, fps
        self._draw = draw
        self._drawing = threading.Lock()
        self._frame_id = first_frame_id - 1
        self._metronome = _Metronome(fps)

    def grab(self) -> bool:
        """Wait until the next frame is due."""
        self._metronome.wait()
        self._frame_id += 1
        return True

    def retrieve(self) -> Picture | None:
        """The grabbed frame."""
        draw = functools.partial(self._draw, self._frame_id)
        return _DrawnPicture(draw, self._drawing, width=self.width, height=self.height)

    def close(self) -> None:
        """Do nothing: no resource is held."""


class _DrawnPicture:
    """A `Picture` that is drawn when it is first needed."""

    is_reduced = False

    def __init__(
        self, draw: Callable[[], Image], drawing: threading.Lock, *, width: int, height: int
    ) -> None:
        self.width, self.height = width, height
        self._draw, self._drawing = draw, drawing
        self._image: Image | None = None

    def bgr(self) -> Image:
        """The whole picture."""
        with self._drawing:
            if self._image is None:
                self._image = self._draw()
            return self._image

    def scaled(self, width: int, height: int, *, smooth: bool = False) -> Image:
        """The picture in this size."""
        return (smoothed if smooth else resized)(self.bgr(), width, height)

    def grid(self, lines: int) -> bytes:
        """About `lines` x `lines` evenly spread pixels."""
        return grid_of(self.bgr(), lines)

    def overview(self) -> Image:
        """The brightness in a coarse grid."""
        return overview_of(self.bgr())


class _Metronome:
    """Ticks at a fixed rate. After a delay at most one missed tick follows at once."""

    def __init__(self, fps: float) -> None:
        self._interval = 1 / fps  # seconds
        self._due = time.monotonic()

    def wait(self) -> None:
        """Wait for the next tick."""
        now = time.monotonic()
        self._due = max(self._due + self._interval, now - self._interval)
        time.sleep(max(0.0, self._due - now))
