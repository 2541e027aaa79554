"""The brightness of a picture in a coarse grid, which shows at little cost what has changed. Pure.

A cell is the mean of three rows of its pixels, which takes most of the noise of a camera away. With cells of
whole pixels OpenCV needs 0.2 ms for a picture of 1920x1080, and with others six times as long.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfleet_worker.video.frame import Image

COLUMNS, ROWS = 128, 72  # of the smallest grid; a grid has less than twice as many
_SAMPLED = 3  # rows of pixels of a cell

Pixels = npt.NDArray[Any]  # (height, width) or (height, width, 3), uint8 or uint16


def overview_of(pixels: Pixels, *, sideways: bool = False) -> Image:
    """The grid (rows, columns) uint8 of a plane of brightness, or of a BGR picture.

    What remains beside whole cells at the right and at the bottom is left out: less than one cell.

    Args:
        pixels: uint16 has 10 bits, as decoders have them.
        sideways: the picture is upright when it is rotated by a quarter.
    """
    height, width = pixels.shape[:2]
    columns, rows = (ROWS, COLUMNS) if sideways else (COLUMNS, ROWS)
    across, down = max(1, width // columns), max(1, height // rows)
    columns, rows = width // across, height // down
    sampled = min(down, _SAMPLED)
    if down > sampled or rows * down < height:
        starts = np.arange(rows)[:, None] * down
        offsets = (np.arange(sampled) * down + down // 2) // sampled
        pixels = pixels.take((starts + offsets).ravel(), axis=0)
    pixels = pixels[:, : columns * across]
    cells = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    if cells.ndim == 3:
        cells = cv2.cvtColor(cells, cv2.COLOR_BGR2GRAY)
    return np.asarray(cells // 4 if pixels.dtype == np.uint16 else cells, np.uint8)
