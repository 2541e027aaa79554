"""Masks, oriented boxes and key points as COCO's annotations have them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamfleet_core.datasets.picked_sample import Box, Spot
from streamfleet_core.datasets.run_lengths import runs_of
from streamfleet_core.protocol.errors import BadData

VISIBLE = 0.5  # confidence from which a key point is visible; below it is only labelled

_LEAST_POINTS = 3  # of a polygon
# The limbs of a person in COCO, in its order: between key points of these names.
_LIMBS = (
    *(("left_ankle", "left_knee"), ("left_knee", "left_hip")),
    *(("right_ankle", "right_knee"), ("right_knee", "right_hip")),
    *(("left_hip", "right_hip"), ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")),
    *(("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow")),
    *(("right_shoulder", "right_elbow"), ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")),
    *(("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye")),
    *(("left_eye", "left_ear"), ("right_eye", "right_ear")),
    *(("left_ear", "left_shoulder"), ("right_ear", "right_shoulder")),
)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The shape of an object in a picture."""

    value: list[list[float]] | dict[str, Any]  # one polygon, run lengths, or an empty list for a mere box
    area: float | None = None  # square pixels; None: that of the box


def segmentation_of(box: Box, *, width: int, height: int) -> Segmentation:
    """The mask or the oriented box of an object, in a picture of this size in pixels."""
    if box.rle is not None and box.rle["size"] == [height, width]:
        try:
            runs = runs_of(box.rle)
        except BadData:
            return Segmentation([])
        # As a list, which COCO's own annotations have, not as the text of its results.
        return Segmentation({"size": [height, width], "counts": runs}, float(sum(runs[1::2])))
    if len(box.points) < _LEAST_POINTS:
        return Segmentation([])
    places = [(_within(point.x, width), _within(point.y, height)) for point in box.points]
    return Segmentation([[each for place in places for each in place]], _area(places))


def keypoints_of(points: Sequence[Spot], *, count: int, width: int, height: int) -> dict[str, Any]:
    """COCO's fields of an object's key points: x, y and visibility of each of so many.

    The visibility is 2 for a confidence from `VISIBLE` on, 1 below, and 0 for a point that was not found or
    is outside of the picture.
    """
    flat: list[float] = [0] * (3 * count)
    for point in points:
        if point.confidence > 0 and 0 <= point.x <= width and 0 <= point.y <= height:
            place = 3 * point.class_id
            visibility = 2 if point.confidence >= VISIBLE else 1
            flat[place : place + 3] = round(point.x, 2), round(point.y, 2), visibility
    return {"keypoints": flat, "num_keypoints": sum(visibility > 0 for visibility in flat[2::3])}


def skeleton_of(names: Mapping[int, str]) -> dict[str, Any]:
    """COCO's fields of a category whose key points have these names by their index."""
    ordered = [names.get(index, str(index)) for index in range(max(names) + 1)]
    numbers = {name: number for number, name in enumerate(ordered, 1)}  # the limbs count from 1
    limbs = [[numbers[one], numbers[other]] for one, other in _LIMBS if {one, other} <= numbers.keys()]
    return {"keypoints": ordered, "skeleton": limbs}


def _within(value: float, end: float) -> float:
    return round(min(max(value, 0.0), end), 2)


def _area(places: Sequence[tuple[float, float]]) -> float:
    """The area of a polygon, in square pixels."""
    ends = zip(places, [*places[1:], places[0]], strict=True)
    return round(abs(sum(x * end_y - end_x * y for (x, y), (end_x, end_y) in ends)) / 2, 2)
