"""Generated scenes: a conveyor belt with bolts, nuts and washers, with known ground truth for every frame.

`scene://conveyor/NUMBER`: the number seeds the belt, its light, its speed and the occluders. A picture
depends only on the number and frame_id, so that a receiver of predictions can compute their accuracy.

    moving belt ─▶ drifting light ─▶ rails, gantry ─▶ a hand or an arm ─▶ noise of the sensor
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from streamfleet_core.protocol.source_reference import scene_of
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.synthetic.belt import LENGTH, make_belt
from streamfleet_worker.video.synthetic.generated_capture import GeneratedCapture
from streamfleet_worker.video.synthetic.occluders import make_fixtures, make_reach

WIDTH, HEIGHT = 640, 480  # pixels
FPS = 15.0
VISIBLE = 0.4  # of a part's outline: parts with less visible are not in the ground truth

_EXPOSURE = 0.3  # of the frame interval
_DRIFT = 48  # pixels by which the light drifts
_NOISE_MARGIN = 64  # pixels

Boxes = npt.NDArray[np.float32]


class UnknownScene(Exception):
    """A reference that is not a known scene."""


def number_of(reference: str) -> int:
    """Parse the number of `scene://conveyor/NUMBER`. Raises: UnknownScene."""
    number = scene_of(reference)
    if number is None:
        raise UnknownScene(
            f"expected scene://conveyor/1 or another number up to 999999, got {reference[:100]}"
        )
    return number


def draw(number: int, frame_id: int) -> Image:
    """Draw this frame: (480, 640, 3) uint8 BGR."""
    return _scene(number).draw(frame_id)


def truth(number: int, frame_id: int) -> tuple[Boxes, npt.NDArray[np.int64]]:
    """The ground truth of this frame: boxes of the visible parts, (n, 4) xyxy pixels, and class ids (n,)."""
    return _scene(number).truth(frame_id)


class Scene:
    """One belt and its surroundings. Creating it takes most of a second. Only one thread may use it."""

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng([0x5CE7E, number])
        self._upright = bool(rng.random() < 0.3)  # the belt moves vertically
        across, along = (WIDTH, HEIGHT) if self._upright else (HEIGHT, WIDTH)
        self._along = along
        speed = int(rng.integers(3, 9))  # pixels per frame
        self._step = speed if rng.random() < 0.5 else -speed
        self._start = int(rng.integers(LENGTH))
        self._fixtures = make_fixtures(rng, across, along)
        belt_width = self._fixtures.belt.stop - self._fixtures.belt.start
        self._belt = make_belt(rng, belt_width, along, blur=speed * _EXPOSURE)
        self._reach = make_reach(rng, across, along) if rng.random() < 0.65 else None
        self._light = _make_light(rng, across + _DRIFT, along + _DRIFT)
        self._swing = rng.uniform(0.04, 0.16)  # of the brightness
        self._periods = rng.uniform(250, 700, size=3)  # frames
        self._grain = rng.uniform(0.08, 0.28)  # of the noise bank's deviation
        self._canvas: Image = np.empty((across, along, 3), np.uint8)
        self._noisy: Image = np.empty_like(self._canvas)

    def draw(self, frame_id: int) -> Image:
        """Draw this frame: (480, 640, 3) uint8 BGR."""
        image: Image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        canvas, belt = self._canvas, self._fixtures.belt
        offset = self._offset(frame_id)
        light = self._light_at(frame_id)
        cv2.multiply(
            self._belt.picture[:, offset : offset + self._along], light[belt], dst=canvas[belt], scale=1 / 200
        )
        self._fixtures.paint(canvas)
        if self._reach is not None:
            self._reach.paint(canvas, frame_id)
        self._expose(canvas, frame_id, self._noisy if self._upright else image)
        if self._upright:
            cv2.transpose(self._noisy, dst=image)
        return image

    def truth(self, frame_id: int) -> tuple[Boxes, npt.NDArray[np.int64]]:
        """The boxes of the visible parts, (n, 4) xyxy pixels, and their class ids (n,)."""
        offset = self._offset(frame_id)
        seen = np.zeros(self._canvas.shape[:2], np.uint8)
        seen[self._fixtures.belt] = self._belt.owners[:, offset : offset + self._along]
        self._fixtures.cover(seen)
        if self._reach is not None:
            self._reach.cover(seen, frame_id)
        if self._upright:
            seen = np.ascontiguousarray(seen.T)
        counts = np.bincount(seen.ravel(), minlength=len(self._belt.areas) + 1)[1:]
        shown = np.flatnonzero(counts >= VISIBLE * self._belt.areas)
        boxes = [cv2.boundingRect((seen == index + 1).view(np.uint8)) for index in shown]
        xyxy = [(x, y, x + width, y + height) for x, y, width, height in boxes]
        return np.array(xyxy, np.float32).reshape(-1, 4), self._belt.class_ids[shown]

    def _offset(self, frame_id: int) -> int:
        return (self._start - self._step * frame_id) % LENGTH

    def _light_at(self, frame_id: int) -> Image:
        """The light of this frame, which drifts slowly over the scene."""
        down, right = (
            round(_DRIFT / 2 * (1 + math.sin(2 * math.pi * frame_id / period)))
            for period in self._periods[:2]
        )
        across, along = self._canvas.shape[:2]
        window: Image = self._light[down : down + across, right : right + along]
        return window

    def _expose(self, canvas: Image, frame_id: int, into: Image) -> None:
        """Apply brightness, which varies slowly, and noise, which differs in every frame."""
        gain = 1 + self._swing * math.sin(2 * math.pi * frame_id / self._periods[2])
        left, top = (frame_id * 37) % _NOISE_MARGIN, (frame_id * 23) % _NOISE_MARGIN
        bank = _noise_bank()
        across, along = canvas.shape[:2]
        noise = bank[top : top + across, left : left + along]
        cv2.addWeighted(canvas, gain, noise, self._grain, -128 * self._grain, dst=into)


class SceneCapture(GeneratedCapture):
    """A scene as a source."""

    def __init__(self, number: int, first_frame_id: int) -> None:
        draw = Scene(number).draw
        super().__init__(draw, width=WIDTH, height=HEIGHT, fps=FPS, first_frame_id=first_frame_id)


@lru_cache(maxsize=4)
def _scene(number: int) -> Scene:
    return Scene(number)


@lru_cache(maxsize=1)
def _noise_bank() -> Image:
    """Noise with deviation 24 around 128, larger than any picture: partly grey, partly coloured."""
    rng = np.random.default_rng(0x5E250)
    side = WIDTH + _NOISE_MARGIN
    grey = rng.standard_normal((side, side, 1), np.float32)
    colour = rng.standard_normal((side, side, 3), np.float32)
    bank: Image = np.clip(128 + 24 * (0.8 * grey + 0.6 * colour), 0, 255).astype(np.uint8)
    return bank


def _make_light(rng: np.random.Generator, height: int, width: int) -> Image:
    """Draw lamps over the scene as soft spots; 200 is the light in which the belt was drawn."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / width
    light = np.full((height, width), rng.uniform(0.6, 0.85), np.float32)
    for _ in range(rng.integers(1, 4)):
        place, spread = rng.uniform(0, 1, size=2), rng.uniform(0.25, 0.7)
        light += rng.uniform(0.15, 0.4) * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / spread**2)
    tint = 1 + rng.uniform(-0.06, 0.06, size=3).astype(np.float32)
    whole: Image = np.clip(200 * light[..., None] * tint, 0, 255).astype(np.uint8)
    return whole
