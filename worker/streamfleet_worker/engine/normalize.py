"""Converts the pixels of a slot to the numbers that a model of its family expects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamfleet_worker.families.adapter import Scale
from streamfleet_worker.ipc.shared_memory import PixelArray

_LARGEST = np.float32(1 / 255)
# The mean and the deviation of pictures of ImageNet, red, green, blue, of pixels from 0 to 1.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def normalize(pixels: PixelArray, scale: Scale, out: npt.NDArray[Any]) -> None:
    """Write pixels (1, 3, height, width) as numbers of this scale into an array of that shape.

    An array of uint8 gets the pixels as they are: such a model has the scale in its graph.
    """
    np.copyto(out, pixels)
    if out.dtype == np.uint8 or scale == "0-255":
        return
    if scale == "0-1":
        np.multiply(out, _LARGEST, out=out, casting="same_kind")  # twice as fast as both steps at once
        return
    for channel, (mean, deviation) in enumerate(zip(_MEAN, _DEVIATION, strict=True)):
        plane = out[:, channel]
        np.multiply(plane, np.float32(1 / (255 * deviation)), out=plane, casting="same_kind")
        np.subtract(plane, np.float32(mean / deviation), out=plane, casting="same_kind")
