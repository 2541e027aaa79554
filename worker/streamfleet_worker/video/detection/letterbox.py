"""Fits pictures into the input of a model, in existing memory.

The families differ in the position of the picture and the order of its channels.

    ultralytics, end2end, yolov5   centered        RGB
    yolox, yolox-decoded           top left        BGR
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.ipc.shared_memory import PixelArray
from streamfleet_worker.video.frame import Floats, Image, Picture

PAD = 114  # grey level around the picture, in all families
_YOLOX = ("yolox", "yolox-decoded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The position and the scale of a picture in the input."""

    frame_width: int  # pixels of the frame
    frame_height: int
    scale: float  # pixels of the input for one of the frame
    left: int  # pixels of the input
    top: int
    width: int  # pixels of the input that the picture covers
    height: int

    def to_frame(self, xyxy: Floats) -> Floats:
        """Convert boxes (n, 4) from pixels of the input to pixels of the frame."""
        offset = np.array([self.left, self.top, self.left, self.top], xyxy.dtype)
        in_frame: Floats = (xyxy - offset) / np.float32(self.scale)
        return in_frame


class Letterbox:
    """Writes pictures into slots (1, 3, height, width). Only one thread may use it."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._geometry: Geometry | None = None
        self._planes: list[Image] = []
        # By address of the slot: the geometry for which its margin was filled.
        self._padded: dict[int, Geometry] = {}

    def write(self, picture: Picture, pixels: PixelArray) -> Geometry:
        """Write a picture into the slot, and return its geometry."""
        geometry = self._fit(picture)
        cv2.split(picture.scaled(geometry.width, geometry.height), self._planes)
        self._pad(pixels, geometry)
        rows = slice(geometry.top, geometry.top + geometry.height)
        columns = slice(geometry.left, geometry.left + geometry.width)
        for channel, plane in enumerate(self._planes):
            target = channel if self._manifest.family in _YOLOX else 2 - channel
            np.copyto(pixels[0, target, rows, columns], plane)
        return geometry

    def _fit(self, picture: Picture) -> Geometry:
        width, height = picture.width, picture.height
        known = self._geometry
        if known is None or (known.frame_width, known.frame_height) != (width, height):
            known = fit(width, height, self._manifest)
            self._geometry = known
            self._planes = [np.empty((known.height, known.width), np.uint8) for _ in range(3)]
        return known

    def _pad(self, pixels: PixelArray, geometry: Geometry) -> None:
        """Fill the margin, once per geometry: it does not change between frames."""
        address = pixels.ctypes.data
        if self._padded.get(address) is not geometry:
            pixels.fill(PAD)
            self._padded[address] = geometry


def fit(width: int, height: int, manifest: Manifest) -> Geometry:
    """The geometry of a frame of this size, rounded as the reference code of the family does."""
    scale = min(manifest.input_width / width, manifest.input_height / height)
    place = _fit_top_left if manifest.family in _YOLOX else _fit_centred
    return place(width, height, scale, manifest)


def _fit_centred(width: int, height: int, scale: float, manifest: Manifest) -> Geometry:
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    left = round((manifest.input_width - across) / 2 - 0.1)
    top = round((manifest.input_height - down) / 2 - 0.1)
    return Geometry(
        frame_width=width, frame_height=height, scale=scale, left=left, top=top, width=across, height=down
    )


def _fit_top_left(width: int, height: int, scale: float, _manifest: Manifest) -> Geometry:
    return Geometry(
        frame_width=width,
        frame_height=height,
        scale=scale,
        left=0,
        top=0,
        width=max(1, int(width * scale)),
        height=max(1, int(height * scale)),
    )
