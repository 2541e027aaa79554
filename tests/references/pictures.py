"""Pictures to look at, and how YOLO's families fit them into an input."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PLAIN = (480, 270)  # pixels of a frame, width and height
ODD = (501, 333)  # of one whose sides are rounded in an input


def drawn(size: tuple[int, int], seed: int = 1) -> np.ndarray:
    """A picture (height, width, 3) uint8, BGR, of overlapping rectangles."""
    width, height = size
    chance = np.random.default_rng(seed)
    picture = np.full((height, width, 3), chance.integers(60, 200, 3), np.uint8)
    for _ in range(40):
        x, y = int(chance.integers(0, width)), int(chance.integers(0, height))
        across, down = int(chance.integers(8, width // 3)), int(chance.integers(8, height // 3))
        colour = [int(value) for value in chance.integers(0, 256, 3)]
        cv2.rectangle(picture, (x, y), (x + across, y + down), colour, -1)
    blurred: np.ndarray = cv2.GaussianBlur(picture, (3, 3), 0)
    return blurred


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture in an input, and where it lies there."""

    pixels: np.ndarray  # (height, width, 3) uint8, BGR
    scale: float
    left: int
    top: int

    def rgb(self) -> np.ndarray:
        """The pixels (1, 3, height, width), red, green, blue."""
        return np.ascontiguousarray(self.pixels[..., ::-1].transpose(2, 0, 1)[None])

    def bgr(self) -> np.ndarray:
        """The pixels (1, 3, height, width), blue, green, red."""
        return np.ascontiguousarray(self.pixels.transpose(2, 0, 1)[None])


def fitted(picture: np.ndarray, height: int, width: int, *, centered: bool) -> Fitted:
    """Fit a picture into the middle, or into the upper left corner, with grey around it."""
    down, across = picture.shape[:2]
    scale = min(height / down, width / across)
    size = (
        (round(across * scale), round(down * scale)) if centered else (int(across * scale), int(down * scale))
    )
    left = round((width - size[0]) / 2 - 0.1) if centered else 0
    top = round((height - size[1]) / 2 - 0.1) if centered else 0
    pixels = np.full((height, width, 3), 114, np.uint8)
    pixels[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size)
    return Fitted(pixels, scale, left, top)
