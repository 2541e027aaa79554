"""The test pattern: a generated live source with known ground truth for every frame.

Three squares, pure red, green and blue, move back and forth on three separate lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.synthetic.generated_capture import GeneratedCapture

WIDTH, HEIGHT = 1920, 1080  # pixels
FPS = 10.0
SIDE = 192  # pixels of a square
LABELS = ("red", "green", "blue")

_BACKGROUND = 30
_COLOURS = ((0, 0, 255), (0, 255, 0), (255, 0, 0))  # BGR


@dataclass(frozen=True, slots=True)
class _Lane:
    top: int  # pixels
    speed: int  # pixels per frame
    start: int  # pixels along the way back and forth


# On a grid of 24 pixels, shifted down by half a step: letterboxed to 320 x 320 these are whole cells of 4
# pixels.
_LANES = (_Lane(84, 24, 0), _Lane(444, 48, 480), _Lane(804, 24, 2400))
_WAY = WIDTH - SIDE  # pixels from one end of a lane to the other


def truth(frame_id: int) -> npt.NDArray[np.float32]:
    """The true boxes in this frame: (3, 4) xyxy pixels, in the order of `LABELS`."""
    boxes = [(left, top, left + SIDE, top + SIDE) for left, top in _corners(frame_id)]
    return np.array(boxes, np.float32)


def draw(frame_id: int) -> Image:
    """Draw this frame: (1080, 1920, 3) uint8 BGR."""
    image = np.full((HEIGHT, WIDTH, 3), _BACKGROUND, np.uint8)
    for (left, top), colour in zip(_corners(frame_id), _COLOURS, strict=True):
        image[top : top + SIDE, left : left + SIDE] = colour
    return image


def _corners(frame_id: int) -> list[tuple[int, int]]:
    corners = []
    for lane in _LANES:
        along = (lane.start + lane.speed * frame_id) % (2 * _WAY)
        corners.append((min(along, 2 * _WAY - along), lane.top))
    return corners


class PatternCapture(GeneratedCapture):
    """The test pattern as a source."""

    def __init__(self, first_frame_id: int) -> None:
        super().__init__(draw, width=WIDTH, height=HEIGHT, fps=FPS, first_frame_id=first_frame_id)
