"""Converts the pixels of a slot to the numbers that a model of its family expects."""

from __future__ import annotations

import numpy as np

from streamfleet_core.protocol.values import Family
from streamfleet_worker.ipc.shared_memory import FloatArray, PixelArray

_UP_TO_255 = ("yolox", "yolox-decoded")  # the other families expect 0 to 1
_LARGEST = np.float32(1 / 255)


def normalize(pixels: PixelArray, family: Family, out: FloatArray) -> None:
    """Write pixels (1, 3, height, width) as numbers from 0 to 1, or to 255, into an array of that shape."""
    np.copyto(out, pixels)
    if family not in _UP_TO_255:
        np.multiply(out, _LARGEST, out=out)  # twice as fast as to convert and multiply at the same time
