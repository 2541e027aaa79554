"""One frame on its way from a source to the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture."""

    stamp: Stamp
    image: Image  # (height, width, 3) uint8, BGR; belongs to the pool of the source: give it back
