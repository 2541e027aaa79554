"""Pictures that exist as arrays: images, drawn scenes, and what OpenCV has decoded."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np

from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.overview import overview_of

PixelsT = TypeVar("PixelsT", bound=np.ndarray[Any, Any])


class ArrayPicture:
    """A `Picture` of an array."""

    is_reduced = False

    def __init__(self, image: Image) -> None:
        """`image`: (height, width, 3) uint8, BGR. It must not change afterwards."""
        self._image = image
        self.height, self.width = image.shape[:2]

    def bgr(self) -> Image:
        """The array."""
        return self._image

    def scaled(self, width: int, height: int) -> Image:
        """The picture in this size."""
        return resized(self._image, width, height)

    def grid(self, lines: int) -> bytes:
        """About `lines` x `lines` evenly spread pixels."""
        return grid_of(self._image, lines)

    def overview(self) -> Image:
        """The brightness in a coarse grid."""
        return overview_of(self._image)


def resized(image: PixelsT, width: int, height: int, *, into: PixelsT | None = None) -> PixelsT:
    """Scale an array (height, width) or (height, width, channels) as the input of all models is scaled."""
    scaled: PixelsT = cv2.resize(image, (width, height), dst=into, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return scaled


def grid_of(image: Image, lines: int) -> bytes:
    """About `lines` x `lines` evenly spread pixels of an array."""
    height, width = image.shape[:2]
    return image[:: max(1, height // lines), :: max(1, width // lines)].tobytes()
