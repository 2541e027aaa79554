"""What was found in a frame as values of supervision, which is imported here only. Pure.

They are built in the same way by every version from 0.27 on. A document may be anything that a device sends:
objects without a box are left out, and a mask that cannot be drawn is empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv
from supervision.config import CLASS_NAME_DATA_FIELD, ORIENTED_BOX_COORDINATES

from streamfleet_core.datasets.run_lengths import runs_of
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.prediction import Point, Prediction, PredictionDocument, Rle

MAX_MASK_PIXELS = 2**29  # of all masks of a frame: a device says with a few bytes how large they are
MAX_KEY_POINTS = 2**18  # of all objects of a frame, each with as many as the largest index asks for
_BOX = frozenset({"x", "y", "width", "height", "confidence", "class", "class_id"})
_CORNERS = 4

Mask = npt.NDArray[np.bool_]  # (height, width) of the frame


def detections_of(document: PredictionDocument) -> sv.Detections:
    """The objects, with masks and corners where they have them."""
    objects = _objects(document)
    ids = [each.get("tracker_id") for each in objects]
    data: dict[str, Any] = {CLASS_NAME_DATA_FIELD: np.array([each["class"] for each in objects], np.str_)}
    if objects and all(map(_is_oriented, objects)):
        corners = [_places(each["points"]) for each in objects]
        data[ORIENTED_BOX_COORDINATES] = np.array(corners, np.float32)
    boxes = np.array(
        [(each["x"], each["y"], each["width"], each["height"]) for each in objects], np.float64
    ).reshape(-1, 4)
    return sv.Detections(
        xyxy=np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2]),
        mask=_masks(objects, document),
        confidence=np.array([each["confidence"] for each in objects], np.float64),
        class_id=np.array([each["class_id"] for each in objects], np.int64),
        tracker_id=None if not ids or None in ids else np.array(ids, np.int64),
        data=data,
    )


def key_points_of(document: PredictionDocument) -> sv.KeyPoints:
    """The key points of all objects; none if no object has any, or if they were too many."""
    objects = _objects(document)
    count = max((point["class_id"] + 1 for each in objects for point in each.get("keypoints", ())), default=0)
    if not 0 < len(objects) * count <= MAX_KEY_POINTS:
        return sv.KeyPoints.empty()
    # The name of the field with confidences is not the same in all versions, but their reader is.
    missing = {"x": 0.0, "y": 0.0, "confidence": 0.0}
    whole = []
    for each in objects:
        points: list[Any] = [{**missing, "class_id": number} for number in range(count)]
        for point in each.get("keypoints", ()):
            points[point["class_id"]] = point
        whole.append({**each, "keypoints": points})
    return sv.KeyPoints.from_inference({"predictions": whole})


def classifications_of(document: PredictionDocument) -> sv.Classifications:
    """The classes of the whole picture; none if the document has objects."""
    classes = [each for each in document["predictions"] if {"class_id", "confidence"} <= each.keys()]
    if "top" not in document:
        classes = []
    return sv.Classifications(
        class_id=np.array([each["class_id"] for each in classes], np.int64),
        confidence=np.array([each["confidence"] for each in classes], np.float64),
    )


def _objects(document: PredictionDocument) -> list[Prediction]:
    return [each for each in document["predictions"] if each.keys() >= _BOX]


def _is_oriented(each: Prediction) -> bool:
    return "rotation" in each and len(each.get("points", ())) == _CORNERS


def _masks(objects: list[Prediction], document: PredictionDocument) -> npt.NDArray[np.bool_] | None:
    """The masks (n, height, width) of all objects, if one of them has any."""
    width, height = document["image"].get("width") or 0, document["image"].get("height") or 0
    has_masks = any(("points" in each and not _is_oriented(each)) or "rle" in each for each in objects)
    if not has_masks or not 0 < len(objects) * height * width <= MAX_MASK_PIXELS:
        return None
    masks = np.zeros((len(objects), height, width), np.bool_)
    for mask, each in zip(masks, objects, strict=True):
        if "rle" in each:
            _draw_runs(each["rle"], mask)
        elif each.get("points") and not _is_oriented(each):
            _draw_outline(each["points"], mask)
    return masks


def _draw_outline(points: list[Point], mask: Mask) -> None:
    height, width = mask.shape
    # Points far outside of the frame would overflow where they are filled.
    places = np.clip(_places(points), -max(mask.shape), 2 * max(mask.shape))
    mask[:] = sv.polygon_to_mask(np.rint(places).astype(np.int32), resolution_wh=(width, height))


def _draw_runs(rle: Rle, mask: Mask) -> None:
    """Draw a mask of the same size. Others, and invalid ones, remain empty."""
    if rle["size"] != [*mask.shape]:
        return
    try:
        runs = runs_of(rle)
    except BadData:
        return
    inside = np.arange(len(runs)) % 2 == 1
    mask[:] = np.repeat(inside, runs).reshape(mask.shape[::-1]).T


def _places(points: list[Point]) -> npt.NDArray[np.float64]:
    return np.array([(point["x"], point["y"]) for point in points], np.float64)
