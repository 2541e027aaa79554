"""One frame on its way from a source to the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The number and the times of a frame, which remain when its picture is released."""

    frame_id: int  # counts the frames grabbed since the run began, from 1; gaps mean dropped frames
    decoded_at: float  # monotonic seconds, when decoding returned
    wall_ns: int  # Unix nanoseconds, at the same instant
    boot_ns: int  # CLOCK_BOOTTIME nanoseconds, at the same instant
    media_time: float  # seconds on the source's own clock, rising from frame to frame
    fps: float  # frames/s that the source declares; 0 if unknown


class Picture(Protocol):
    """A decoded picture, upright, which is converted on request, and only to what is asked for.

    It outlives the next pictures of its source. Any thread may call any method.
    """

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def is_reduced(self) -> bool:
        """Whether it was scaled down when it was decoded. In its own size it is blurred."""

    def bgr(self) -> Image:
        """The whole picture: (height, width, 3) uint8, BGR. Converted once: all callers share it."""

    def scaled(self, width: int, height: int, *, smooth: bool = False) -> Image:
        """The picture in this size: (height, width, 3) uint8, BGR.

        `smooth`: a pixel of a smaller picture is a mean of all that it covers, as PIL and torchvision scale;
        otherwise of the four in its middle, as OpenCV does, which is faster.
        """

    def grid(self, lines: int) -> bytes:
        """About `lines` x `lines` evenly spread pixels, in the format of the source."""

    def overview(self) -> Image:
        """The brightness of the picture in a coarse grid, see `overview`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture and its stamp."""

    stamp: Stamp
    picture: Picture
    overview: Image | None = None  # of the picture, if the source has a motion gate
    skipped: float = 0.0  # seconds for which its source stood still before it, in total
