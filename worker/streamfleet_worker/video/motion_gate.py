"""Decides which frames of a source show no motion, so that they need no inference. It has no clock.

A frame is compared with the last inferred one, not with the frame before it: what creeps is found when it has
moved far enough, and what has stopped stands still at once, as the last predictions show it already.

    difference   of each cell of the overview, less what all of them have in common: light that changes slowly
    changed      a cell whose difference exceeds the threshold, which rises with the noise of the camera
    motion       two changed cells, or as many differ that the picture is another one
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfleet_core.protocol.values import Motion, Region
from streamfleet_worker.video.frame import Image

_FAINTEST, _STRONGEST = 4.0, 40.0  # thresholds in levels of brightness, of sensitivities 1 and 0
_MOTION = 2  # changed cells
_MOST_LIGHT = 8  # levels by which the whole picture may become lighter or darker
_NOISE_FACTOR = 7  # thresholds above the noise of a camera
_MOST_NOISE = 3  # times the threshold, to which noise raises it: a camera that pans is no noise
_LEARNING = 0.1  # weight of a frame in the noise
_LEVELS = 255
_WATCHED = 1.0  # seconds for which the picture may stand still while a client watches it

_Levels = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Reference:
    """What the next frames are compared with."""

    overview: Image
    media_time: float  # seconds


class MotionGate:
    """The gate of one source. Any thread may call any method.

    The thread that reads the source asks `is_still` for each frame in order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all of the following
        self._rule: Motion | None = None
        self._region: Region | None = None
        self._mask: npt.NDArray[np.bool_] | None = None  # of the region, in the shape of the overviews
        self._watched = False
        self._reference: Reference | None = None  # None: the next frame is inferred
        self._previous: Reference | None = None  # the last frame
        self._noise: float | None = None  # levels; None before the second frame
        self._skipped = 0.0  # seconds

    @property
    def is_on(self) -> bool:
        """Whether frames may be skipped."""
        return self._rule is not None

    @property
    def skipped(self) -> float:
        """Seconds of the source's own clock for which it stood still, in total."""
        return self._skipped

    def use(self, rule: Motion | None, region: Region | None) -> None:
        """Change the rule. Only cells in the region count. The next frame is inferred."""
        with self._lock:
            self._rule, self._region, self._mask = rule, region, None
            self._reference = None

    def watch(self, watched: bool) -> None:
        """Let a frame pass each second while a client looks at the pictures."""
        with self._lock:
            self._watched = watched

    def forget(self) -> None:
        """Let the next frame pass: what was inferred last did not reach anybody, or is outdated."""
        with self._lock:
            self._reference = None

    def inferred(self, overview: Image, media_time: float) -> None:
        """Compare later frames with this one, whose predictions are the last ones."""
        with self._lock:
            self._reference = Reference(overview, media_time)

    def is_still(self, overview: Image, media_time: float) -> bool:
        """Whether a frame shows no motion since the last inferred one, and that was not too long ago."""
        with self._lock:
            previous, self._previous = self._previous, Reference(overview, media_time)
            if self._rule is None:
                return False
            moved = not self._compares(overview, media_time) or self._moved(overview)
            self._learn_noise(previous, overview)
            if moved:
                return False
            if previous is not None:
                self._skipped += max(0.0, media_time - previous.media_time)
            return True

    def _compares(self, overview: Image, media_time: float) -> bool:
        """Whether there is a frame of the same size to compare with, and it is not too old."""
        reference = self._reference
        if reference is None or self._rule is None or reference.overview.shape != overview.shape:
            return False
        most = min(self._rule.max_still, _WATCHED) if self._watched else self._rule.max_still
        return 0 <= media_time - reference.media_time < most

    def _learn_noise(self, previous: Reference | None, overview: Image) -> None:
        """Learn by how much half of the cells differ from one frame to the next, apart from the light."""
        if previous is None or previous.overview.shape != overview.shape:
            return
        cells = self._seen(_difference(overview, previous.overview))
        seen, noise = _median(np.abs(cells - round(_median(cells)))), self._noise
        self._noise = seen if noise is None else noise + _LEARNING * (seen - noise)

    def _moved(self, overview: Image) -> bool:
        assert self._rule is not None
        assert self._reference is not None
        cells = self._seen(_difference(overview, self._reference.overview))
        light = max(-_MOST_LIGHT, min(_MOST_LIGHT, round(_median(cells))))
        threshold = threshold_of(self._rule.sensitivity, self._noise or 0.0)
        return int(np.count_nonzero(np.abs(cells - light) >= threshold)) >= min(_MOTION, cells.size)

    def _seen(self, cells: _Levels) -> _Levels:
        """The cells of the region."""
        if self._region is None:
            return cells.ravel()
        if self._mask is None or self._mask.shape != cells.shape:
            self._mask = mask_of(self._region, rows=cells.shape[0], columns=cells.shape[1])
        return cells[self._mask]


def threshold_of(sensitivity: float, noise: float) -> float:
    """The difference from which a cell has changed, in levels.

    Args:
        sensitivity: from 0 to 1.
        noise: levels by which half of the cells differ from one frame to the next.
    """
    least = _STRONGEST * math.pow(_FAINTEST / _STRONGEST, sensitivity)
    return min(max(least, _NOISE_FACTOR * noise), _MOST_NOISE * least)


def mask_of(region: Region, *, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """The cells (rows, columns) that a region touches: at least one."""
    corners = np.floor(np.array(region) * [columns, rows]).astype(np.int32)
    mask = np.zeros((rows, columns), np.uint8)
    cv2.fillPoly(mask, [np.minimum(corners, [columns - 1, rows - 1])], 1)
    return mask.astype(np.bool_)


def _difference(overview: Image, other: Image) -> _Levels:
    difference: _Levels = overview.astype(np.int16) - other
    return difference


def _median(levels: _Levels) -> float:
    """The median of numbers from -255 to 255; 0 of none. Each stands for what is rounded to it.

    Counting is faster than sorting, as most of them are equal.
    """
    if not levels.size:
        return 0.0
    counts = np.bincount(levels + _LEVELS, minlength=2 * _LEVELS + 1)
    upto, half = counts.cumsum(), levels.size / 2
    at = int(np.searchsorted(upto, half))
    share = (half - (upto[at] - counts[at])) / counts[at]
    return float(at - _LEVELS - 0.5 + share)
