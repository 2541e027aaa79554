"""Masks of objects, each within its box. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapter import Candidates, Floats, Outputs
from streamfleet_worker.video.detection.letterbox import Geometry

_MOST_PIXELS = 8192 * 8192  # of one mask; larger boxes have an empty one
# Of all masks of a frame: a model chooses how many boxes have the size of the frame, and how many prototypes
# and logits it has. They are cut within a few seconds, in an eighth of a gigabyte.
_MOST_TOGETHER = 2 * _MOST_PIXELS
_MOST_LOGITS = 2**30  # numbers of prototypes or masks that are read for a frame


@dataclass(frozen=True, slots=True)
class BoxMask:
    """The pixels of an object, in a part of the frame that contains its box."""

    left: int  # pixels of the frame
    top: int
    bits: npt.NDArray[np.uint8]  # (height, width), 0 or 1

    def resized(self, across: float, down: float) -> BoxMask:
        """The mask in the resized frame, of which one pixel of the frame has this width and height."""
        height, width = self.bits.shape
        left, top = round(self.left * across), round(self.top * down)
        size = (
            max(1, round((self.left + width) * across) - left),
            max(1, round((self.top + height) * down) - top),
        )
        shares = cv2.resize(self.bits * np.uint8(255), size, interpolation=cv2.INTER_AREA)
        return BoxMask(left, top, (shares > 127).astype(np.uint8))

    def polygon(self) -> npt.NDArray[np.int32]:
        """The outline of the largest part: points (n, 2) in pixels of the frame; none if nothing is set."""
        contours, _ = cv2.findContours(self.bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not contours:
            return np.empty((0, 2), np.int32)
        largest = max(contours, key=cv2.contourArea).reshape(-1, 2)
        largest[:, 0] += self.left
        largest[:, 1] += self.top
        return largest.astype(np.int32)


def masks_of(
    found: Candidates, boxes: Floats, outputs: Outputs, *, geometry: Geometry, manifest: Manifest
) -> npt.NDArray[Any]:
    """The masks (n,) of candidates whose boxes (4, n) in pixels of the frame are these.

    The logits are computed within each box only, enlarged to the frame, and then cut at 0. The most confident
    candidates come first: if they use up what the masks of a frame may take, those of the others are empty.
    """
    masks = np.empty(boxes.shape[1], object)
    # As the reference cuts: a pixel is in a box if its left and its upper edge are.
    edges, corners = np.ceil(boxes).astype(int), boxes.astype(int)
    pixels, numbers = _MOST_TOGETHER, _MOST_LOGITS
    for index in range(boxes.shape[1]):
        left, top, right, bottom = edges[:, index].tolist()
        window = _Window(left, top, right - left, bottom - top)
        logits = _Logits(found, index, outputs)
        part = _part_of(window, geometry, manifest, logits.height, logits.width)
        read = logits.depth * part.size
        if 0 < window.pixels <= min(_MOST_PIXELS, pixels) and read <= numbers:
            pixels, numbers = pixels - window.pixels, numbers - read
            masks[index] = BoxMask(left, top, logits.cut(window, part))
        else:
            x, y = corners[:2, index].tolist()
            masks[index] = BoxMask(x, y, np.zeros((1, 1), np.uint8))
    return masks


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of the frame, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of the grid of logits that a window needs, and the way from one to the other."""

    rows: slice
    columns: slice
    to_grid: npt.NDArray[np.float64]  # (2, 3): from pixels of the window to the part

    @property
    def size(self) -> int:
        size: int = (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)
        return size


def _part_of(window: _Window, geometry: Geometry, manifest: Manifest, height: int, width: int) -> _Part:
    """The part of a grid of this size, which lies over the whole input."""
    # The position of the first pixel of the window in the grid, and the step to the next one.
    across, down = width / manifest.input_width, height / manifest.input_height
    x = ((window.left + 0.5) * geometry.scale + geometry.left) * across - 0.5
    y = ((window.top + 0.5) * geometry.scale_down + geometry.top) * down - 0.5
    step_x, step_y = geometry.scale * across, geometry.scale_down * down
    columns = _around(x, step_x * (window.width - 1), width)
    rows = _around(y, step_y * (window.height - 1), height)
    return _Part(rows, columns, np.array([[step_x, 0, x - columns.start], [0, step_y, y - rows.start]]))


class _Logits:
    """The logits of one mask, in a grid over the whole input."""

    def __init__(self, found: Candidates, index: int, outputs: Outputs) -> None:
        self._whole = None if found.masks is None else found.masks[index]
        self._coefficients = None if found.coefficients is None else found.coefficients[index]
        self._prototypes = outputs[-1][0]
        self.height, self.width = self._prototypes.shape[-2:]
        self.depth = 1 if self._coefficients is None else len(self._coefficients)  # numbers for each logit

    def cut(self, window: _Window, part: _Part) -> npt.NDArray[np.uint8]:
        """The pixels of the window of the frame whose logit is above 0, as 1."""
        values = np.nan_to_num(self._part(part.rows, part.columns))
        enlarged = cv2.warpAffine(
            np.ascontiguousarray(values, np.float32),
            part.to_grid,
            (window.width, window.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return (enlarged > 0).astype(np.uint8)

    def _part(self, rows: slice, columns: slice) -> Floats:
        if self._whole is not None:
            part: Floats = self._whole[rows, columns]
            return part
        assert self._coefficients is not None
        with np.errstate(over="ignore", invalid="ignore"):
            values: Floats = np.tensordot(self._coefficients, self._prototypes[:, rows, columns], axes=1)
        return values


def _around(first: float, length: float, size: int) -> slice:
    """The indices of a grid of this size that a range needs for linear interpolation; at least one."""
    start = min(max(int(np.floor(first)), 0), size - 1)
    return slice(start, min(max(int(np.ceil(first + length)) + 1, start + 1), size))
