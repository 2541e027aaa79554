"""Reads documents of `prediction` and of Roboflow's models as values of supervision. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.outputs.prediction import Document
from streamfleet_worker.video.outputs.rle import mask_of

_SHAPES = {"points", "rle", "rle_mask"}  # which supervision reads as masks in the size of the frame
_MOST_PIXELS = 8192 * 8192  # of the mask of a polygon
_CORNERS = 4


def is_classified(document: Document) -> bool:
    """Whether it has the classes of a picture, and no objects."""
    return "top" in document


def boxes_of(document: Document) -> sv.Detections:
    """The objects without their masks, which takes little memory.

    Raises: KeyError, TypeError, ValueError, AttributeError for a document without boxes.
    """
    bare = [
        {key: value for key, value in each.items() if key not in _SHAPES} for each in document["predictions"]
    ]
    return sv.Detections.from_inference({**document, "predictions": bare})


def findings_in(document: Document) -> sv.Detections:
    """The objects with what their task adds, as `findings` has it. Raises: as `boxes_of`."""
    detections, predictions = boxes_of(document), document["predictions"]
    if not predictions:
        return detections
    keys = set(predictions[0]).intersection(*predictions)
    if {"points", "rotation"} <= keys:
        detections.data[CORNERS] = corners_in(predictions)
    elif keys & {"points", "rle"}:
        masks = np.empty(len(predictions), object)
        for index, prediction in enumerate(predictions):
            masks[index] = _mask_in(prediction)
        detections.data[MASKS] = masks
    if "keypoints" in keys:
        detections.data[KEYPOINTS] = _keypoints_in(predictions)
    return detections


def supervision_detections(document: Document) -> sv.Detections:
    """What supervision reads, with the corners of oriented boxes instead of masks. Raises: as `boxes_of`."""
    predictions = document["predictions"]
    if not predictions or not all("rotation" in each for each in predictions):
        return sv.Detections.from_inference(document)
    detections = boxes_of(document)
    detections.data[CORNERS] = corners_in(predictions)
    return detections


def corners_in(predictions: Sequence[Document]) -> npt.NDArray[np.float32]:
    """The corners (n, 4, 2) of oriented boxes. Raises: ValueError, KeyError, TypeError."""
    corners = [[(point["x"], point["y"]) for point in each["points"]] for each in predictions]
    return np.array(corners, np.float32).reshape(len(predictions), _CORNERS, 2)


def _mask_in(prediction: Document) -> BoxMask:
    if "rle" in prediction:
        height, width = prediction["rle"]["size"]
        return mask_of(prediction["rle"]["counts"], width=width, height=height)
    points = np.array([(point["x"], point["y"]) for point in prediction["points"]], np.float64)
    return _filled(points.reshape(-1, 2))


def _filled(points: npt.NDArray[np.float64]) -> BoxMask:
    """The pixels within a polygon, and its edge. Raises: ValueError."""
    if len(points) == 0:
        return BoxMask(0, 0, np.zeros((1, 1), np.uint8))
    whole = np.round(points)
    low, size = whole.min(axis=0), np.ptp(whole, axis=0) + 1
    if not np.isfinite(whole).all() or np.abs(whole).max() >= 2**31 or size.prod() > _MOST_PIXELS:
        raise ValueError(f"expected a polygon of at most {_MOST_PIXELS} pixels, got {points[:3].tolist()}")
    width, height = size.astype(int).tolist()
    bits = np.zeros((height, width), np.uint8)
    cv2.fillPoly(bits, [(whole - low).astype(np.int32)], (1,))
    return BoxMask(int(low[0]), int(low[1]), bits)


def _keypoints_in(predictions: Sequence[Document]) -> npt.NDArray[np.float32]:
    """The key points (n, points, 3). Those that an object does not have have a confidence of 0."""
    count = max(len(each["keypoints"]) for each in predictions)
    keypoints: npt.NDArray[np.float32] = np.zeros((len(predictions), count, 3), np.float32)
    for row, prediction in zip(keypoints, predictions, strict=True):
        for number, point in enumerate(prediction["keypoints"]):
            row[_place(point, number, count)] = (point["x"], point["y"], point["confidence"])
    return keypoints


def _place(point: dict[str, Any], number: int, count: int) -> int:
    """The place of a key point in its skeleton, if it tells it: Roboflow leaves some out."""
    place = point.get("class_id", number)
    return place if isinstance(place, int) and 0 <= place < count else number
