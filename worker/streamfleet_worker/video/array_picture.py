"""Pictures that exist as arrays: images, drawn scenes, and what OpenCV has decoded."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

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

    def scaled(self, width: int, height: int, *, smooth: bool = False) -> Image:
        """The picture in this size."""
        return (smoothed if smooth else resized)(self._image, width, height)

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


def smoothed(image: Image, width: int, height: int) -> Image:
    """Scale an array (height, width, 3) so that a pixel is a mean of all that it covers."""
    rows, columns = image.shape[:2]
    if width >= columns and height >= rows:
        return resized(image, width, height)
    if (step := min(columns // width, rows // height) // 2) > 1:  # a mean of whole blocks is fast
        image = cv2.resize(image, (columns // step, rows // step), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")
    scaled = frame.reformat(width, height, "bgr24", interpolation=Interpolation.BILINEAR)
    return np.asarray(scaled.to_ndarray(), np.uint8)


def grid_of(image: Image, lines: int) -> bytes:
    """About `lines` x `lines` evenly spread pixels of an array."""
    height, width = image.shape[:2]
    return image[:: max(1, height // lines), :: max(1, width // lines)].tobytes()
