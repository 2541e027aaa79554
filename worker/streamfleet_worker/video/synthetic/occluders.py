"""Occluders of parts on a conveyor belt: rails, a gantry, and a hand or an arm that reaches over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfleet_worker.video.frame import Floats, Image

_PAINTS = ((40, 160, 235), (200, 200, 196), (150, 90, 40), (70, 70, 74), (50, 60, 190))  # BGR
_GLOVES = ((170, 120, 60), (60, 130, 220), (120, 150, 205), (60, 60, 62), (90, 170, 110))  # BGR
_SHADE = 12  # pixels by which the shadow of a high object is offset


@dataclass(frozen=True, slots=True)
class Fixtures:
    """The static occluders, and the visible part of the belt."""

    belt: slice  # the rows of the picture that the belt fills
    picture: Image  # (across, along, 3) uint8, BGR: rails and gantry
    gantry: slice | None  # columns
    shadow: Image | None  # (across, columns, 3) uint8, to the right of the gantry: 255 is no shadow

    def paint(self, canvas: Image) -> None:
        """Draw over the belt."""
        if self.gantry is not None and self.shadow is not None:
            end = self.gantry.stop
            there = canvas[:, end : end + self.shadow.shape[1]]
            there[:] = cv2.multiply(there, self.shadow, scale=1 / 255)
            canvas[:, self.gantry] = self.picture[:, self.gantry]
        canvas[: self.belt.start] = self.picture[: self.belt.start]
        canvas[self.belt.stop :] = self.picture[self.belt.stop :]

    def cover(self, owners: npt.NDArray[np.uint8]) -> None:
        """Clear the owners of hidden pixels."""
        owners[: self.belt.start] = 0
        owners[self.belt.stop :] = 0
        if self.gantry is not None:
            owners[:, self.gantry] = 0


class Reach:
    """A hand or an arm that repeatedly reaches over the belt and moves along it."""

    def __init__(self, colour: Image, alpha: Floats, *, from_below: bool, rhythm: _Rhythm) -> None:
        height, width = alpha.shape
        margin = 24
        faint = cv2.GaussianBlur(np.pad(alpha, margin), (0, 0), 7.0)
        shadow = np.clip(255 * (1 - 0.45 * faint), 0, 255).astype(np.uint8)
        self._from_below = from_below
        self._colour = np.ascontiguousarray(colour[::-1]) if from_below else colour
        self._alpha = np.ascontiguousarray(alpha[::-1]) if from_below else alpha
        self._rest = 1 - self._alpha
        self._shadow = cv2.merge([shadow[::-1] if from_below else shadow] * 3)
        self._margin = margin
        self._size = (height, width)
        self._rhythm = rhythm

    def paint(self, canvas: Image, frame_id: int) -> None:
        """Draw over everything."""
        corner = self._corner(canvas.shape[0], frame_id)
        if corner is None:
            return
        y, x = corner
        off = _SHADE - self._margin
        window = _window(canvas.shape[:2], (y + off, x + off), self._shadow.shape[:2])
        if window is not None:
            there, mine = window
            canvas[there] = cv2.multiply(canvas[there], self._shadow[mine], scale=1 / 255)
        window = _window(canvas.shape[:2], corner, self._size)
        if window is not None:
            there, mine = window
            canvas[there] = cv2.blendLinear(
                self._colour[mine], canvas[there], self._alpha[mine], self._rest[mine]
            )

    def cover(self, owners: npt.NDArray[np.uint8], frame_id: int) -> None:
        """Clear the owners of hidden pixels."""
        corner = self._corner(owners.shape[0], frame_id)
        window = None if corner is None else _window(owners.shape[:2], corner, self._size)
        if window is not None:
            there, mine = window
            owners[there][self._alpha[mine] >= 0.5] = 0

    def _corner(self, across: int, frame_id: int) -> tuple[int, int] | None:
        """Row and column of the sprite's corner; None if it is outside."""
        depth, x = self._rhythm.at(frame_id)
        if depth <= 0:
            return None
        y = across - round(depth) if self._from_below else round(depth) - self._size[0]
        return y, round(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rhythm:
    depth: float  # pixels that it reaches over the belt
    period: float  # frames between two visits
    phase: float
    middle: float  # pixels along the belt
    swing: float  # pixels to both sides

    def at(self, frame_id: int) -> tuple[float, float]:
        """Depth of its reach, and its position along the belt."""
        angle = 2 * math.pi * frame_id / self.period + self.phase
        depth = self.depth * min(1.0, 1.6 * math.sin(angle))
        return depth, self.middle + self.swing * math.sin(angle * 0.37 + 1.0)


def make_fixtures(rng: np.random.Generator, across: int, along: int) -> Fixtures:
    """Draw rails on both sides, and often a gantry across."""
    picture = np.zeros((across, along, 3), np.float32)
    share = rng.uniform(0.05, 0.13, size=2) * across
    belt = slice(int(share[0]), across - int(share[1]))
    paint = _PAINTS[rng.integers(len(_PAINTS))]
    picture[: belt.start] = _profile(rng, belt.start, paint)[:, None]
    picture[belt.stop :] = _profile(rng, across - belt.stop, paint)[::-1, None]
    gantry, shadow = None, None
    if rng.random() < 0.55:
        wide = int(rng.integers(22, 50))
        left = int(rng.integers(along // 6, along * 5 // 6 - wide))
        gantry = slice(left, left + wide)
        picture[:, gantry] = _profile(rng, wide, _PAINTS[rng.integers(len(_PAINTS))])[None]
        fade = np.linspace(0.45, 0, 26, dtype=np.float32)
        shadow = np.broadcast_to((255 * (1 - fade))[None, :, None], (across, 26, 3)).astype(np.uint8)
    return Fixtures(belt, np.clip(picture, 0, 255).astype(np.uint8), gantry, shadow)


def make_reach(rng: np.random.Generator, across: int, along: int) -> Reach:
    """Draw a hand in a glove, or the arm of a robot."""
    depth = across * rng.uniform(0.35, 0.75)
    draw = _hand if rng.random() < 0.55 else _arm
    colour, alpha = draw(rng, int(depth) + 60)
    swing = rng.uniform(20, along * 0.3)
    middle = rng.uniform(swing, along - swing - alpha.shape[1])
    rhythm = _Rhythm(
        depth=depth, period=rng.uniform(110, 320), phase=rng.uniform(0, 6.3), middle=middle, swing=swing
    )
    return Reach(colour, alpha, from_below=bool(rng.random() < 0.5), rhythm=rhythm)


def _profile(rng: np.random.Generator, wide: int, paint: tuple[int, int, int]) -> Floats:
    """(wide, 3): a folded sheet of metal across its length, bright where it faces the light."""
    place = np.linspace(0, 1, wide, dtype=np.float32)
    light = 0.85 + 0.25 * np.sin(place * rng.uniform(3, 7) + rng.uniform(0, 3))
    light[: max(1, wide // 12)] *= 0.6
    light[-max(2, wide // 10) :] *= 0.55
    profile: Floats = light[:, None] * np.array(paint, np.float32)
    return profile


def _hand(rng: np.random.Generator, length: int) -> tuple[Image, Floats]:
    """A hand that reaches downwards, with its fingers at the bottom."""
    width = 150
    glove = np.zeros((length, width), np.uint8)
    sleeve = np.zeros_like(glove)
    palm = (width // 2, length - 92)
    cv2.ellipse(glove, palm, (36, 44), 0, 0, 360, 255, -1, cv2.LINE_AA)
    for finger, (dx, reach) in enumerate(((-27, 66), (-9, 84), (10, 80), (27, 62))):
        bend = int(rng.integers(-8, 9))
        start, end = (palm[0] + dx, palm[1] + 22), (palm[0] + dx + bend, palm[1] + reach)
        cv2.line(glove, start, end, 255, 17 if finger else 14, cv2.LINE_AA)
    side = int(rng.choice([-1, 1]))
    cv2.line(
        glove, (palm[0] + 24 * side, palm[1] - 8), (palm[0] + 58 * side, palm[1] + 40), 255, 18, cv2.LINE_AA
    )
    cv2.line(glove, (palm[0], palm[1]), (palm[0], max(0, palm[1] - 50)), 255, 54, cv2.LINE_AA)
    cv2.line(sleeve, (palm[0], palm[1] - 66), (palm[0], -60), 255, 72, cv2.LINE_AA)
    colours = (_GLOVES[rng.integers(len(_GLOVES))], _PAINTS[rng.integers(len(_PAINTS))])
    return _rounded((glove, sleeve), colours, roundness=13.0)


def _arm(rng: np.random.Generator, length: int) -> tuple[Image, Floats]:
    """An arm that reaches downwards, with its gripper at the bottom."""
    width = 110
    middle = width // 2
    beam, gripper = np.zeros((length, width), np.uint8), np.zeros((length, width), np.uint8)
    half = int(rng.integers(17, 30))
    cv2.rectangle(beam, (middle - half, 0), (middle + half, length - 78), 255, -1)
    cv2.circle(beam, (middle, length - 78), half + 8, 255, -1, cv2.LINE_AA)
    spread = int(rng.integers(14, 30))
    for side in (-1, 1):
        cv2.line(gripper, (middle, length - 70), (middle + side * spread, length - 44), 255, 12, cv2.LINE_AA)
        cv2.line(
            gripper,
            (middle + side * spread, length - 44),
            (middle + side * spread, length - 8),
            255,
            10,
            cv2.LINE_AA,
        )
    return _rounded((gripper, beam), ((90, 90, 92), _PAINTS[rng.integers(len(_PAINTS))]), roundness=9.0)


def _rounded(
    layers: tuple[Image, ...], colours: tuple[tuple[int, int, int], ...], *, roundness: float
) -> tuple[Image, Floats]:
    """Draw flat layers, later ones above, lit as if their edges were round."""
    picture = np.zeros((*layers[0].shape, 3), np.float32)
    alpha = np.zeros(layers[0].shape, np.float32)
    for layer, colour in zip(layers, colours, strict=True):
        mask = layer.astype(np.float32) / 255
        depth = np.minimum(cv2.distanceTransform((layer > 127).astype(np.uint8), cv2.DIST_L2, 5), roundness)
        height = cv2.GaussianBlur(np.sqrt(depth * (2 * roundness - depth)), (0, 0), 1.5)
        down, right = np.gradient(height)
        light = np.clip(0.78 - 0.28 * right - 0.34 * down, 0.25, 1.25)
        picture += (light[..., None] * np.array(colour, np.float32) - picture) * mask[..., None]
        alpha = np.maximum(alpha, mask)
    return np.clip(picture, 0, 255).astype(np.uint8), alpha


_Place = tuple[slice, slice]


def _window(
    canvas: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> tuple[_Place, _Place] | None:
    """The visible window of an object: its place in the canvas, and in the object itself."""
    (y, x), (height, width) = corner, size
    top, left = max(0, y), max(0, x)
    bottom, right = min(canvas[0], y + height), min(canvas[1], x + width)
    if top >= bottom or left >= right:
        return None
    return np.s_[top:bottom, left:right], np.s_[top - y : bottom - y, left - x : right - x]
