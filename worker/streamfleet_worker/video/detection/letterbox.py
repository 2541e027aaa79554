"""Fits pictures into the input of a model, in existing memory.

The families differ in the position of the picture and the order of its channels: see `families`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.ipc.shared_memory import PixelArray
from streamfleet_worker.video.frame import Floats, Image, Picture

PAD = 114  # grey level around the picture, in all families
_MOST_CROPPED = 8  # times the shorter side; longer pictures are stretched, or their middle would be tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The position and the scale of a picture in the input."""

    frame_width: int  # pixels of the frame
    frame_height: int
    scale: float  # pixels of the input for one of the frame, across
    scale_down: float  # the same from top to bottom, which differs if pictures are stretched
    left: int  # pixels of the input; negative if the picture is cropped
    top: int
    width: int  # pixels of the input that the picture covers
    height: int

    def to_frame(self, xyxy: Floats) -> Floats:
        """Convert boxes (n, 4) from pixels of the input to pixels of the frame."""
        return self.points_to_frame(xyxy.reshape(-1, 2)).reshape(xyxy.shape)

    def points_to_frame(self, points: Floats) -> Floats:
        """Convert points (n, 2) from pixels of the input to pixels of the frame."""
        offset = np.array([self.left, self.top], points.dtype)
        in_frame: Floats = (points - offset) / np.array([self.scale, self.scale_down], np.float32)
        return in_frame


class Letterbox:
    """Writes pictures into slots (1, 3, height, width). Only one thread may use it."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        expected = input_format_of(manifest)
        self._reversed = expected.channels == "RGB"  # pictures are BGR
        self._smooth = expected.smooth
        self._geometry: Geometry | None = None
        self._planes: list[Image] = []
        # By address of the slot: the geometry for which its margin was filled.
        self._padded: dict[int, Geometry] = {}

    def write(self, picture: Picture, pixels: PixelArray) -> Geometry:
        """Write a picture into the slot, and return its geometry."""
        geometry = self._fit(picture)
        cv2.split(self._visible(picture, geometry), self._planes)
        self._pad(pixels, geometry)
        top, left = max(0, geometry.top), max(0, geometry.left)
        rows = slice(top, top + self._planes[0].shape[0])
        columns = slice(left, left + self._planes[0].shape[1])
        for channel, plane in enumerate(self._planes):
            target = 2 - channel if self._reversed else channel
            np.copyto(pixels[0, target, rows, columns], plane)
        return geometry

    def _visible(self, picture: Picture, geometry: Geometry) -> Image:
        """The part of the scaled picture that lies in the input."""
        scaled = picture.scaled(geometry.width, geometry.height, smooth=self._smooth)
        if geometry.top >= 0 and geometry.left >= 0:
            return scaled
        rows, columns = self._manifest.input_height, self._manifest.input_width
        top, left = max(0, -geometry.top), max(0, -geometry.left)
        return scaled[top : top + rows, left : left + columns]

    def _fit(self, picture: Picture) -> Geometry:
        width, height = picture.width, picture.height
        known = self._geometry
        if known is None or (known.frame_width, known.frame_height) != (width, height):
            known = fit(width, height, self._manifest)
            self._geometry = known
            shape = (
                min(known.height, self._manifest.input_height),
                min(known.width, self._manifest.input_width),
            )
            self._planes = [np.empty(shape, np.uint8) for _ in range(3)]
        return known

    def _pad(self, pixels: PixelArray, geometry: Geometry) -> None:
        """Fill the margin, once per geometry: it does not change between frames."""
        address = pixels.ctypes.data
        if self._padded.get(address) is not geometry:
            pixels.fill(PAD)
            self._padded[address] = geometry


def fit(width: int, height: int, manifest: Manifest) -> Geometry:
    """The geometry of a frame of this size, rounded as the reference code of the family does."""
    across, down = manifest.input_width / width, manifest.input_height / height
    way = input_format_of(manifest).fit
    if way == "stretched" or (way == "cropped" and max(across, down) > _MOST_CROPPED * min(across, down)):
        return _placed(width, height, (across, down), (manifest.input_width, manifest.input_height))
    if way == "cropped":
        scale = max(across, down)
        # Rounded down, as torchvision's `Resize` does, but no side may fall short of the input.
        size = (
            max(manifest.input_width, int(width * scale)),
            max(manifest.input_height, int(height * scale)),
        )
        left, top = round((size[0] - manifest.input_width) / 2), round((size[1] - manifest.input_height) / 2)
        return _placed(width, height, (scale, scale), size, left=-left, top=-top)
    scale = min(across, down)
    if way == "top-left":
        size = max(1, int(width * scale)), max(1, int(height * scale))
        return _placed(width, height, (scale, scale), size)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    left = round((manifest.input_width - size[0]) / 2 - 0.1)
    top = round((manifest.input_height - size[1]) / 2 - 0.1)
    return _placed(width, height, (size[0] / width, size[1] / height), size, left=left, top=top)


def _placed(
    width: int,
    height: int,
    scales: tuple[float, float],
    size: tuple[int, int],
    *,
    left: int = 0,
    top: int = 0,
) -> Geometry:
    return Geometry(
        frame_width=width,
        frame_height=height,
        scale=scales[0],
        scale_down=scales[1],
        left=left,
        top=top,
        width=size[0],
        height=size[1],
    )
