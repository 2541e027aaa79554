"""Draws parts from above: bolts, nuts and washers, and caps and tags as distractors.

Each is a field of distances to its outline and a field of normals, lit from the top left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from streamfleet_worker.video.frame import Floats, Image

LABELS = ("bolt", "nut", "washer")  # by class id

_FINE = 2  # points per pixel in each direction
_LIGHT = np.array(
    [-0.45, -0.55, 0.70], np.float32
)  # towards the light: x to the right, y down, z to the camera
_METALS = (  # BGR
    (188, 186, 182),  # zinc
    (150, 150, 152),  # steel
    (96, 176, 212),  # brass
    (200, 190, 168),  # blue zinc
    (84, 118, 190),  # copper
    (78, 76, 74),  # black oxide
)
_PLASTICS = ((60, 60, 200), (190, 120, 40), (60, 170, 60), (40, 190, 220), (225, 225, 220))  # BGR


@dataclass(frozen=True, slots=True)
class Sprite:
    """The picture of one part or distractor."""

    colour: Floats  # (height, width, 3) float32, BGR, 0…255
    alpha: Floats  # (height, width) float32, 0…1
    outline: Image  # (height, width) uint8: 1 inside the outer outline, including holes


@dataclass(frozen=True, slots=True)
class _Field:
    """A shape on a grid of points; all (height, width) float32."""

    inside: Floats  # pixels to the nearest edge, negative outside
    outer: Floats  # the same, but holes count as inside
    along: Floats  # the normal's component along the part
    across: Floats


_Drawing = tuple[float, Callable[[Floats, Floats], _Field]]
_Form = Callable[[np.random.Generator], _Drawing]


def draw_part(class_id: int, rng: np.random.Generator) -> Sprite:
    """Draw a part of this class with a random size, rotation and metal."""
    form = (_bolt, _nut, _washer)[class_id]
    return _draw(form, rng, _METALS[rng.integers(len(_METALS))], shine=rng.uniform(0.35, 0.9))


def draw_distractor(rng: np.random.Generator) -> Sprite:
    """Draw a distractor: a cap without a hole, or a tag."""
    form = (_cap, _tag)[rng.integers(2)]
    return _draw(form, rng, _PLASTICS[rng.integers(len(_PLASTICS))], shine=0.15)


def _draw(form: _Form, rng: np.random.Generator, base: tuple[int, int, int], *, shine: float) -> Sprite:
    turn = rng.uniform(0, 2 * np.pi)
    reach, draw = form(rng)
    side = 2 * (int(reach) + 2)
    axis = (np.arange(side * _FINE, dtype=np.float32) + 0.5) / _FINE - side / 2
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along = axis[None, :] * cosine + axis[:, None] * sine
    across = axis[:, None] * cosine - axis[None, :] * sine
    field = draw(along, across)
    right = field.along * cosine - field.across * sine
    down = field.along * sine + field.across * cosine
    colour = _lit(right, down, np.array(base, np.float32) * rng.uniform(0.85, 1.1), shine)
    alpha = np.clip(field.inside * _FINE + 0.5, 0, 1)
    return _cropped(colour, alpha, np.clip(field.outer * _FINE + 0.5, 0, 1))


def _lit(right: Floats, down: Floats, base: Floats, shine: float) -> Floats:
    """Diffuse and specular light on a surface with these normals."""
    up = np.sqrt(np.maximum(0.05, 1 - right**2 - down**2))
    towards = np.maximum(0, right * _LIGHT[0] + down * _LIGHT[1] + up * _LIGHT[2])
    glint = (towards**12 * (shine * 150))[..., None]
    lit: Floats = np.clip(base * (0.40 + 0.75 * towards[..., None]) + glint, 0, 255)
    return lit


def _cropped(colour: Floats, alpha: Floats, outer: Floats) -> Sprite:
    """Scale to one point per pixel, and crop empty margins."""
    size = (alpha.shape[1] // _FINE, alpha.shape[0] // _FINE)
    weight = np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), np.float32)
    mixed = cv2.resize(colour * alpha[..., None], size, interpolation=cv2.INTER_AREA)
    solid = cv2.resize(outer, size, interpolation=cv2.INTER_AREA) >= 0.5
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    clean = mixed / np.maximum(weight, 1e-3)[..., None]
    return Sprite(clean[window], weight[window], solid[window].astype(np.uint8))


# the shapes: the radius of each, and its field ------------------------------------------------------------


def _bolt(rng: np.random.Generator) -> _Drawing:
    shaft = rng.uniform(6, 9)  # half the width, pixels
    length = shaft * rng.uniform(6.5, 11)
    head, thick = shaft * rng.uniform(1.65, 1.95), shaft * rng.uniform(1.2, 1.5)
    begin, neck, end = -length / 2, -length / 2 + thick, length / 2
    pitch = shaft * 0.55
    thread = neck + (end - neck) * rng.uniform(0.0, 0.45)  # where the thread starts

    def field(along: Floats, across: Floats) -> _Field:
        width = np.abs(across)
        on_head = np.minimum(np.minimum(along - begin, neck - along), head - width)
        tip = np.minimum(end - along, (end - along) + (shaft - width))  # chamfered
        on_shaft = np.minimum(np.minimum(along - neck, tip), shaft - width)
        inside = np.maximum(on_head, on_shaft)
        is_head = on_head > on_shaft
        facet = np.where(width < head * 0.5, 0.0, np.sign(across) * 0.62)
        rounded = np.clip(across / shaft, -0.97, 0.97)
        groove = np.where(along > thread, 0.55 * np.sin(along * (2 * np.pi / pitch)), 0.0)
        edge = np.where(along - begin < 2.0, -0.5, 0.0)
        return _Field(inside, inside, np.where(is_head, edge, groove), np.where(is_head, facet, rounded))

    return float(np.hypot(length / 2, head)), field


def _nut(rng: np.random.Generator) -> _Drawing:
    flat = rng.uniform(15, 26)  # from the middle to a side
    hole = flat * rng.uniform(0.48, 0.6)

    def field(along: Floats, across: Floats) -> _Field:
        radius = np.hypot(along, across)
        slanted = np.maximum(
            np.abs(along * 0.5 + across * np.float32(0.8660254)),
            np.abs(along * 0.5 - across * np.float32(0.8660254)),
        )
        outer = flat - np.maximum(np.abs(along), slanted)
        chamfer = np.clip((radius - flat * 0.93) / (flat * 0.12), 0, 1) * 0.6  # outwards, at the corners
        funnel = np.clip((hole * 1.28 - radius) / (hole * 0.28), 0, 1) * -0.75  # inwards, to the thread
        return _radial(np.minimum(outer, radius - hole), outer, (along, across, radius), chamfer + funnel)

    return flat * 1.16, field


def _washer(rng: np.random.Generator) -> _Drawing:
    rim = rng.uniform(17, 32)
    hole = rim * rng.uniform(0.42, 0.58)
    bevel = rng.uniform(2.0, 4.0)

    def field(along: Floats, across: Floats) -> _Field:
        radius = np.hypot(along, across)
        outwards = np.clip((radius - rim + bevel) / bevel, 0, 1) * 0.7
        inwards = np.clip((hole + bevel * 0.7 - radius) / bevel, 0, 1) * -0.7
        outer = rim - radius
        return _radial(np.minimum(outer, radius - hole), outer, (along, across, radius), outwards + inwards)

    return rim, field


def _cap(rng: np.random.Generator) -> _Drawing:
    rim = rng.uniform(9, 22)

    def field(along: Floats, across: Floats) -> _Field:
        radius = np.hypot(along, across)
        outer = rim - radius
        return _radial(outer, outer, (along, across, radius), np.clip(radius / rim, 0, 1) ** 3 * 0.7)

    return rim, field


def _tag(rng: np.random.Generator) -> _Drawing:
    half = rng.uniform(10, 24, size=2).astype(np.float32)

    def field(along: Floats, across: Floats) -> _Field:
        outer = np.minimum(half[0] - np.abs(along), half[1] - np.abs(across))
        ripple = 0.12 * np.sin(along * 0.35)
        return _Field(outer, outer, ripple, np.zeros_like(ripple))

    return float(np.hypot(*half)), field


def _radial(inside: Floats, outer: Floats, place: tuple[Floats, Floats, Floats], slope: Floats) -> _Field:
    along, across, radius = place
    outwards = slope / np.maximum(radius, 1e-3)
    return _Field(inside, outer, along * outwards, across * outwards)
