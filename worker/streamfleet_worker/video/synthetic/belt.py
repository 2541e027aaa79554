"""One loop of a conveyor belt from above, drawn once: rubber, stains, parts and their shadows.

The picture runs along x, with its first `view` columns repeated at the end, so that any window of it is one
slice. `owners` says which part is visible at each pixel; the ground truth follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfleet_worker.video.frame import Floats, Image
from streamfleet_worker.video.synthetic.parts import LABELS, Sprite, draw_distractor, draw_part

LENGTH = 3200  # pixels of one loop
_MOST_PARTS = 120  # `owners` has room for 255
_SHADOW = (5, 6)  # pixels to the right and down
_RUBBERS = (  # BGR
    (52, 50, 48),
    (78, 76, 74),
    (64, 84, 58),
    (104, 84, 54),
    (74, 96, 112),
    (120, 122, 120),
    (58, 62, 86),
)


@dataclass(frozen=True, slots=True)
class Belt:
    """A loop of the belt."""

    picture: Image  # (width, LENGTH + view, 3) uint8, BGR
    owners: npt.NDArray[np.uint8]  # (width, LENGTH + view): 0 for none, otherwise the index of a part + 1
    class_ids: npt.NDArray[np.int64]  # (parts,)
    areas: npt.NDArray[np.int64]  # (parts,) pixels of the whole outline, visible or not


def make_belt(rng: np.random.Generator, width: int, view: int, *, blur: float) -> Belt:
    """Draw a belt of this width, of which `view` columns are visible at once.

    `blur` is in pixels along it.
    """
    picture = _rubber(rng, width)
    owners = np.zeros((width, LENGTH), np.uint8)
    class_ids, areas = _lay_parts(rng, picture, owners)
    whole = np.concatenate([picture, picture[:, :view]], axis=1)
    # One blur for both motion and lens.
    whole = cv2.GaussianBlur(whole, (0, 0), sigmaX=max(0.35, blur / 3.5), sigmaY=rng.uniform(0.35, 0.8))
    return Belt(
        np.clip(whole, 0, 255).astype(np.uint8),
        np.concatenate([owners, owners[:, :view]], axis=1),
        np.array(class_ids, np.int64),
        np.array(areas, np.int64),
    )


# the rubber -----------------------------------------------------------------------------------------------


def _rubber(rng: np.random.Generator, width: int) -> Floats:
    base = np.array(_RUBBERS[rng.integers(len(_RUBBERS))], np.float32) * rng.uniform(0.8, 1.3)
    grain = _noise(rng, width, 0.6) * rng.uniform(0.015, 0.05)
    streaks = _noise(rng, width, 24, 0.8) * rng.uniform(0.02, 0.07)
    clouds = cv2.resize(_noise(rng, width // 8, 4)[:, : LENGTH // 8], (LENGTH, width)) * rng.uniform(
        0.03, 0.08
    )
    light = 1 + grain + streaks + clouds + _ribs(rng)
    for _ in range(rng.integers(4, 14)):
        _stain(rng, light)
    rubber: Floats = base * light[..., None]
    for _ in range(rng.integers(5, 25)):
        _scratch(rng, rubber)
    return rubber


def _noise(rng: np.random.Generator, width: int, along: float, across: float | None = None) -> Floats:
    """Noise with deviation 1, smoothed over `along` and `across` pixels, periodic along the belt."""
    pad = int(along * 3) + 1
    raw = rng.standard_normal((width, LENGTH), np.float32)
    ring = np.concatenate([raw[:, -pad:], raw, raw[:, :pad]], axis=1)
    smooth = cv2.GaussianBlur(ring, (0, 0), sigmaX=along, sigmaY=across or along)[:, pad:-pad]
    scaled: Floats = smooth / smooth.std()
    return scaled


def _ribs(rng: np.random.Generator) -> Floats:
    """Lines across the belt, which make its motion visible."""
    spacing = (16, 40, 80, 160, 320)[rng.integers(5)]  # each divides the loop
    place = np.arange(LENGTH, dtype=np.float32) % spacing
    depth = rng.uniform(0.06, 0.22)
    ribs: Floats = depth * (np.exp(-((place - 4) ** 2) / 2) - 1.2 * np.exp(-((place - 7) ** 2) / 3))
    return ribs[None, :]


def _stain(rng: np.random.Generator, light: Floats) -> None:
    half = rng.integers(12, 46)
    x, y = rng.integers(half, LENGTH - half), rng.integers(half, light.shape[0] - half)
    axis = np.arange(-half, half, dtype=np.float32) / half
    reach = np.hypot(axis[None, :] * rng.uniform(1, 1.8), axis[:, None] * rng.uniform(1, 1.8))
    wobble = 0.06 * np.sin(np.arctan2(axis[:, None], axis[None, :]) * rng.integers(3, 7) + rng.uniform(0, 6))
    soft = np.clip((0.85 + wobble - reach) * 4, 0, 1)
    light[y - half : y + half, x - half : x + half] *= 1 - soft * rng.uniform(-0.15, 0.4)


def _scratch(rng: np.random.Generator, rubber: Floats) -> None:
    x, y = rng.integers(100, LENGTH - 100), rng.integers(0, rubber.shape[0])
    dx, dy = rng.integers(-80, 80), rng.integers(-25, 25)
    there = rubber[y, x]
    colour = [float(value) for value in there * rng.uniform(0.6, 1.5)]
    cv2.line(rubber, (int(x), int(y)), (int(x + dx), int(y + dy)), colour, 1, cv2.LINE_AA)


# parts on the belt ---------------------------------------------------------------------------------------


def _lay_parts(
    rng: np.random.Generator, picture: Floats, owners: npt.NDArray[np.uint8]
) -> tuple[list[int], list[int]]:
    """Place parts and distractors along the belt. Parts rarely overlap, and never by more than a third."""
    class_ids: list[int] = []
    areas: list[int] = []
    spacing = rng.uniform(42, 80)  # pixels along the belt, on average
    x = 20.0
    while x < LENGTH - 200 and len(class_ids) < _MOST_PARTS:
        is_part = rng.random() < 0.87
        class_id = int(rng.integers(len(LABELS)))
        sprite = draw_part(class_id, rng) if is_part else draw_distractor(rng)
        corner = _place(rng, sprite, owners, int(x))
        if corner is not None:
            if is_part:
                class_ids.append(class_id)
                areas.append(int(sprite.outline.sum()))
            _lay(sprite, corner, picture, owners, len(class_ids) if is_part else 0)
        x += rng.exponential(spacing * 0.6) + spacing * 0.4
    return class_ids, areas


def _place(
    rng: np.random.Generator, sprite: Sprite, owners: npt.NDArray[np.uint8], x: int
) -> tuple[int, int] | None:
    height, width = sprite.outline.shape
    if x + width > LENGTH:
        return None
    may_cover = 0.35 if rng.random() < 0.15 else 0.0  # the share of its own area
    for _ in range(8):
        y = int(rng.integers(2, owners.shape[0] - height - 2))
        under = owners[y : y + height, x : x + width]
        if np.count_nonzero(under[sprite.outline > 0]) <= may_cover * sprite.outline.sum():
            return x, y
    return None


def _lay(
    sprite: Sprite, corner: tuple[int, int], picture: Floats, owners: npt.NDArray[np.uint8], owner: int
) -> None:
    x, y = corner
    height, width = sprite.outline.shape
    _shade(sprite, corner, picture)
    there = picture[y : y + height, x : x + width]
    there += (sprite.colour - there) * sprite.alpha[..., None]
    owners[y : y + height, x : x + width][sprite.outline > 0] = owner


def _shade(sprite: Sprite, corner: tuple[int, int], picture: Floats) -> None:
    """Draw the soft shadow beside a sprite."""
    margin = 10
    shadow = cv2.GaussianBlur(np.pad(sprite.alpha, margin), (0, 0), 3.0)
    left, top = corner[0] + _SHADOW[0] - margin, corner[1] + _SHADOW[1] - margin
    x, y = max(0, left), max(0, top)
    there = picture[y : top + shadow.shape[0], x : left + shadow.shape[1]]
    there *= 1 - 0.5 * shadow[y - top :, x - left :][: there.shape[0], : there.shape[1], None]
