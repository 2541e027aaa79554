"""Converts the raw output of a model to detections in pixels of the frame. Pure arithmetic."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv
from typing_extensions import assert_never

from streamfleet_core.protocol.values import Manifest, PipelineSpec
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.ipc.shared_memory import FloatArray
from streamfleet_worker.video.detection.letterbox import Geometry
from streamfleet_worker.video.frame import Floats

T = TypeVar("T")

_STRIDES = (8, 16, 32)  # pixels of the input per anchor point of YOLOX


def post_processing(spec: PipelineSpec, defaults: PostProcessing) -> PostProcessing:
    """The settings of the pipeline, with the device's defaults where it has none."""
    return PostProcessing(
        confidence=_first(spec.confidence, defaults.confidence),
        iou_threshold=_first(spec.iou_threshold, defaults.iou_threshold),
        class_agnostic_nms=_first(spec.class_agnostic_nms, defaults.class_agnostic_nms),
        max_candidates=_first(spec.max_candidates, defaults.max_candidates),
        max_detections=_first(spec.max_detections, defaults.max_detections),
    )


def decode(
    output: FloatArray, geometry: Geometry, *, manifest: Manifest, rules: PostProcessing
) -> sv.Detections:
    """Decode an output (1, rows, columns) to detections, most confident first, clipped to the frame."""
    boxes, scores, classes = _to_frame(*_read(output[0], manifest, rules.confidence), geometry)
    best = np.argsort(-scores, kind="stable")[: rules.max_candidates]
    boxes, scores, classes = boxes[best], scores[best], classes[best]
    # A model with NMS inside has suppressed overlapping boxes already.
    kept = slice(None) if manifest.family == "end2end" else _suppress(boxes, scores, classes, rules)
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    most = rules.max_detections
    # Rounding may raise a score with fewer than 32 bits above 1.
    return sv.Detections(xyxy=boxes[:most], confidence=np.minimum(scores[:most], 1), class_id=classes[:most])


_Read = tuple[Floats, Floats, npt.NDArray[np.int64]]  # xyxy (n, 4), scores (n,), classes (n,)


def _read(output: FloatArray, manifest: Manifest, confidence: float) -> _Read:
    match manifest.family:
        case "ultralytics":
            return _read_ultralytics(output, confidence)
        case "end2end":
            return _read_end_to_end(output, len(manifest.labels), confidence)
        case "yolox":
            return _read_yolox(output, manifest, confidence)
        case "yolov5" | "yolox-decoded":
            _, chosen, scores, classes = _confident_rows(output, confidence)
            return _corners(chosen[:, :2], chosen[:, 2:4]), scores, classes
        case _:
            assert_never(manifest.family)


def _read_end_to_end(output: FloatArray, labels: int, confidence: float) -> _Read:
    """Rows of corners, score and class id, in pixels of the input."""
    chosen = output[output[:, 4] >= confidence]
    chosen = chosen[(chosen[:, 5] > -0.5) & (chosen[:, 5] < labels - 0.5)]
    return chosen[:, :4], chosen[:, 4], np.rint(chosen[:, 5]).astype(np.int64)


def _read_ultralytics(output: FloatArray, confidence: float) -> _Read:
    """Columns of center, size, and a score for each class, in pixels of the input."""
    best = output[4:].max(axis=0)
    columns = np.flatnonzero(best >= confidence)
    chosen = output[:, columns]
    return _corners(chosen[:2].T, chosen[2:4].T), best[columns], chosen[4:].argmax(axis=0)


def _read_yolox(output: FloatArray, manifest: Manifest, confidence: float) -> _Read:
    """Rows of offset from the grid, logarithm of the size, objectness, and a score for each class."""
    rows, chosen, scores, classes = _confident_rows(output, confidence)
    grid, stride = _grid(manifest.input_width, manifest.input_height)
    centre = (chosen[:, :2] + grid[rows]) * stride[rows]
    with np.errstate(over="ignore"):  # an infinite box is dropped below
        size = np.exp(chosen[:, 2:4]) * stride[rows]
    return _corners(centre, size), scores, classes


def _confident_rows(
    output: FloatArray, confidence: float
) -> tuple[npt.NDArray[np.int64], Floats, Floats, npt.NDArray[np.int64]]:
    """Select rows (box, objectness, a score per class) by confidence: indices, rows, scores, classes."""
    # A score is at most the objectness, so most rows are excluded early.
    rows = np.flatnonzero(output[:, 4] >= confidence)
    chosen = output[rows]
    classes = chosen[:, 5:].argmax(axis=1)
    scores = chosen[:, 4] * chosen[np.arange(len(rows)), 5 + classes]
    confident = scores >= confidence
    return rows[confident], chosen[confident], scores[confident], classes[confident]


@lru_cache(maxsize=4)
def _grid(width: int, height: int) -> tuple[FloatArray, FloatArray]:
    """The anchor points of YOLOX: (n, 2) columns and rows, and (n, 1) pixels from one to the next."""
    points, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        points.append(np.stack([columns, rows], axis=-1).reshape(-1, 2))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _corners(centre: Floats, size: Floats) -> Floats:
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def _to_frame(boxes: Floats, scores: Floats, classes: npt.NDArray[np.int64], geometry: Geometry) -> _Read:
    """Convert to pixels of the frame, clip, and drop boxes that are outside or not finite."""
    boxes = geometry.to_frame(boxes)
    frame = np.array([geometry.frame_width, geometry.frame_height] * 2, np.float32)
    boxes = np.clip(boxes, 0, frame)
    with np.errstate(invalid="ignore"):
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[inside], scores[inside], classes[inside]


def _suppress(
    boxes: Floats, scores: Floats, classes: npt.NDArray[np.int64], rules: PostProcessing
) -> npt.NDArray[np.int64]:
    """Non-maximum suppression: the rows to keep, most confident first."""
    if len(boxes) == 0:
        return np.empty(0, np.int64)
    xywh = boxes.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    if rules.class_agnostic_nms:
        kept = cv2.dnn.NMSBoxes(xywh, scores, 0.0, rules.iou_threshold)  # type: ignore[arg-type]
    else:
        kept = cv2.dnn.NMSBoxesBatched(xywh, scores, classes, 0.0, rules.iou_threshold)  # type: ignore[arg-type]
    return np.asarray(kept, np.int64).reshape(-1)


def _first(given: T | None, default: T) -> T:
    return default if given is None else given
