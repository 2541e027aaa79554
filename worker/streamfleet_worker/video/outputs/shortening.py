"""Makes predictions shorter, if space is short: their numbers, and the outlines of their masks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from streamfleet_worker.video.outputs.outlines import outline_of, simplified
from streamfleet_worker.video.outputs.prediction import Document, points_of
from streamfleet_worker.video.outputs.rle import mask_of

# Decimals: a tenth of a pixel and a thousandth of confidence are finer than the precision of any model.
_DIGITS = {"x": 1, "y": 1, "width": 1, "height": 1, "confidence": 3, "rotation": 1}
_LONG = {"points", "rle", "keypoints"}
_SMALLEST_POINT = 7  # bytes, in any format
_SMALLEST_KEYPOINT = 55
_MOST_POINTS = 128  # of a polygon instead of run lengths


def shortened(prediction: Document) -> Document:
    """Round the numbers of a prediction, and those of its points, key points and stages."""
    short = _rounded(prediction)
    for key in ("points", "keypoints"):
        points = prediction.get(key)
        if points and not isinstance(points[0]["x"], int):  # the points of our polygons are whole pixels
            short[key] = [_rounded(point) for point in points]
    if "stages" in prediction:
        short["stages"] = {
            name: {**stage, "predictions": [shortened(each) for each in stage["predictions"]]}
            for name, stage in prediction["stages"].items()
        }
    return short


def _rounded(values: Document) -> Document:
    short = {key: round(values[key], digits) for key, digits in _DIGITS.items() if key in values}
    return {**values, **short}


def has_shapes(predictions: Sequence[Document]) -> bool:
    """Whether there are polygons or run lengths, which can be made shorter."""
    return any(_is_polygon(prediction) or "rle" in prediction for prediction in predictions)


def least_bytes(predictions: Sequence[Document]) -> int:
    """A lower bound of the bytes of all polygons, run lengths and key points; 0 if the first one has none."""
    if not predictions or predictions[0].keys().isdisjoint(_LONG):  # as of most models, which is quick
        return 0
    points = sum(len(prediction.get("points", ())) for prediction in predictions)
    keypoints = sum(len(prediction.get("keypoints", ())) for prediction in predictions)
    counts = sum(len(_counts(prediction)) for prediction in predictions)
    return points * _SMALLEST_POINT + keypoints * _SMALLEST_KEYPOINT + counts


def coarsened(predictions: Sequence[Document], points: int, least: int) -> list[Document]:
    """Simplify polygons to so many points together, but to no less than `least` each."""
    counts = [len(prediction["points"]) for prediction in predictions if _is_polygon(prediction)]
    most = max(least, _most(counts, points))
    return [_coarse(prediction, most) for prediction in predictions]


def without_shape(prediction: Document) -> Document:
    """The prediction with an empty polygon, if it has a polygon or run lengths."""
    if not _is_polygon(prediction) and not _counts(prediction):
        return prediction
    return {**{key: value for key, value in prediction.items() if key != "rle"}, "points": []}


def outlined(prediction: Document) -> Document:
    """The prediction with a polygon instead of run lengths, if it has these."""
    counts = _counts(prediction)
    if not counts:
        return prediction
    height, width = prediction["rle"]["size"]
    try:
        points = points_of(outline_of(mask_of(counts, width=width, height=height), _MOST_POINTS))
    except ValueError:  # of a program's own predictions
        return prediction
    rest = {key: value for key, value in prediction.items() if key not in ("rle", "mask_format")}
    return {**rest, "points": points, "mask_format": "polygon"}


def _most(counts: Sequence[int], total: int) -> int:
    """How many points a polygon may have, if those with fewer leave the rest to the others."""
    left = max(0, total)
    for at, count in enumerate(sorted(counts)):
        share = left // (len(counts) - at)
        if count > share:
            return share
        left -= count
    return max(counts, default=0)


def _coarse(prediction: Document, most: int) -> Document:
    if not _is_polygon(prediction) or len(prediction["points"]) <= most:
        return prediction
    points = np.array([(point["x"], point["y"]) for point in prediction["points"]], np.float64)
    return {**prediction, "points": points_of(simplified(np.round(points), most))}


def _is_polygon(prediction: Document) -> bool:
    """Whether it has a polygon, not the corners of an oriented box."""
    return "points" in prediction and "rotation" not in prediction


def _counts(prediction: Document) -> str:
    """The run lengths of a mask; empty if it has none as text."""
    rle: Any = prediction.get("rle")
    counts = rle.get("counts") if isinstance(rle, dict) else None
    return counts if isinstance(counts, str) else ""
