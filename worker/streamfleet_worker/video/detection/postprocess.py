"""Converts the raw output of a model to detections in pixels of the frame. Pure arithmetic.

A new family has its name in `Family`. How its output is read is decided here, where its picture is placed in
`letterbox`, and the range of its input in `engine.normalize`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

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
    found = _inside(*_read(output[0], manifest, rules.confidence), geometry)
    has_nms = manifest.family == "end2end"  # the model has suppressed overlapping boxes already
    if has_nms or len(found[1]) > rules.max_candidates:
        found = _take(found, np.argsort(-found[1], kind="stable")[: rules.max_candidates])
    if not has_nms:
        found = _take(found, _suppress(*found, rules))
    boxes, scores, classes = _take(found, slice(rules.max_detections))
    # Rounding may raise a score with fewer than 32 bits above 1.
    return sv.Detections(xyxy=boxes.T.copy(), confidence=np.minimum(scores, 1), class_id=classes)


# x1 y1 x2 y2 (4, n), scores (n,), classes (n,). NumPy is slow with short rows, so boxes are columns.
_Found = tuple[Floats, Floats, npt.NDArray[np.int64]]


def _read(output: FloatArray, manifest: Manifest, confidence: float) -> _Found:
    match manifest.family:
        case "ultralytics":
            return _read_ultralytics(output, confidence)
        case "end2end":
            return _read_end_to_end(output, len(manifest.labels), confidence)
        case "yolox":
            return _read_yolox(output, manifest, confidence)
        case "yolov5" | "yolox-decoded":
            _, chosen, scores, classes = _confident_rows(output, confidence)
            boxes = _columns(chosen)
            return _corners(boxes[:2], boxes[2:]), scores, classes
        case _:
            assert_never(manifest.family)


def _read_end_to_end(output: FloatArray, labels: int, confidence: float) -> _Found:
    """Rows of corners, score and class id, in pixels of the input."""
    chosen = output[output[:, 4] >= confidence]
    chosen = chosen[(chosen[:, 5] > -0.5) & (chosen[:, 5] < labels - 0.5)]
    return _columns(chosen), chosen[:, 4], np.rint(chosen[:, 5]).astype(np.int64)


def _read_ultralytics(output: FloatArray, confidence: float) -> _Found:
    """Columns of center, size, and a score for each class, in pixels of the input."""
    best = output[4:].max(axis=0)
    columns = np.flatnonzero(best >= confidence)
    chosen = output[:, columns]
    return _corners(chosen[:2], chosen[2:4]), best[columns], chosen[4:].argmax(axis=0)


def _read_yolox(output: FloatArray, manifest: Manifest, confidence: float) -> _Found:
    """Rows of offset from the grid, logarithm of the size, objectness, and a score for each class."""
    rows, chosen, scores, classes = _confident_rows(output, confidence)
    boxes = _columns(chosen)
    grid, strides = _grid(manifest.input_width, manifest.input_height)
    stride = strides[rows]
    centre = (boxes[:2] + grid[:, rows]) * stride
    with np.errstate(over="ignore"):  # an infinite box is dropped below
        size = np.exp(boxes[2:]) * stride
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
    """The anchor points of YOLOX: (2, n) columns and rows, and (n,) pixels from one to the next."""
    points, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        points.append(np.stack([columns, rows]).reshape(2, -1))
        strides.append(np.full(rows.size, stride))
    return np.concatenate(points, axis=1).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _columns(rows: Floats) -> Floats:
    """The first four numbers of each row, as (4, n)."""
    return np.ascontiguousarray(rows[:, :4].T)


def _corners(centre: Floats, size: Floats) -> Floats:
    half = size / 2
    return np.concatenate([centre - half, centre + half])


def _inside(boxes: Floats, scores: Floats, classes: npt.NDArray[np.int64], geometry: Geometry) -> _Found:
    """Convert to pixels of the frame, clip, and drop boxes that are outside or not finite."""
    frame = np.array([[geometry.frame_width], [geometry.frame_height]] * 2, np.float32)
    boxes = np.minimum(np.maximum(geometry.to_frame(boxes.T).T, 0), frame)
    with np.errstate(invalid="ignore"):
        inside = (boxes[2] > boxes[0]) & (boxes[3] > boxes[1])
    found = boxes, scores, classes
    return found if inside.all() else _take(found, inside)


def _take(found: _Found, which: npt.NDArray[Any] | slice) -> _Found:
    boxes, scores, classes = found
    return boxes[:, which], scores[which], classes[which]


def _suppress(
    boxes: Floats, scores: Floats, classes: npt.NDArray[np.int64], rules: PostProcessing
) -> npt.NDArray[np.int64]:
    """Non-maximum suppression: the rows to keep, most confident first."""
    if len(scores) == 0:
        return np.empty(0, np.int64)
    xywh = boxes.astype(np.float64)
    xywh[2:] -= xywh[:2]
    # OpenCV reads boxes from lists, and classes from its own kind of integers, faster than otherwise.
    rows, kinds = xywh.T.tolist(), classes.astype(np.int32)
    if rules.class_agnostic_nms:
        kept = cv2.dnn.NMSBoxes(rows, scores, 0.0, rules.iou_threshold)  # type: ignore[arg-type]
    else:
        kept = cv2.dnn.NMSBoxesBatched(rows, scores, kinds, 0.0, rules.iou_threshold)  # type: ignore[arg-type]
    return np.asarray(kept, np.int64).reshape(-1)


def _first(given: T | None, default: T) -> T:
    return default if given is None else given
