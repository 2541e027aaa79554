"""Converts the raw outputs of a model to findings in pixels of the frame. Pure arithmetic.

The adapters of `families` read the outputs of each family. The rest is the same for all of them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import supervision as sv

from streamfleet_core.protocol.values import Manifest, PipelineSpec
from streamfleet_worker.families.adapter import Candidates, Floats, Outputs
from streamfleet_worker.families.adapters import adapter_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.classification import classify
from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS, Findings, data_of
from streamfleet_worker.video.detection.letterbox import Geometry
from streamfleet_worker.video.detection.masks import masks_of
from streamfleet_worker.video.detection.selection import ALL, Selection
from streamfleet_worker.video.detection.suppression import suppress

T = TypeVar("T")

_FURTHEST = 1e6  # pixels of the input


def post_processing(spec: PipelineSpec, defaults: PostProcessing) -> PostProcessing:
    """The settings of the pipeline, with the device's defaults where it has none."""
    return PostProcessing(
        confidence=_first(spec.confidence, defaults.confidence),
        iou_threshold=_first(spec.iou_threshold, defaults.iou_threshold),
        class_agnostic_nms=_first(spec.class_agnostic_nms, defaults.class_agnostic_nms),
        max_candidates=_first(spec.max_candidates, defaults.max_candidates),
        max_detections=_first(spec.max_detections, defaults.max_detections),
    )


def findings_of(
    outputs: Outputs,
    geometry: Geometry,
    *,
    manifest: Manifest,
    rules: PostProcessing,
    selection: Selection = ALL,
) -> Findings:
    """What a model has found in a frame, and is kept."""
    if manifest.task == "classify":
        return classify(outputs, rules, selection)
    return decode(outputs, geometry, manifest=manifest, rules=rules, selection=selection)


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is dropped
def decode(
    outputs: Outputs,
    geometry: Geometry,
    *,
    manifest: Manifest,
    rules: PostProcessing,
    selection: Selection = ALL,
) -> sv.Detections:
    """Decode the outputs of one frame to detections, most confident first, clipped to the frame."""
    adapter = adapter_of(manifest)
    found = selection.of_kept_classes(_sound(adapter.read(outputs, manifest, rules.confidence)))
    if adapter.has_nms or len(found.scores) > rules.max_candidates:
        found = found.take(np.argsort(-found.scores, kind="stable")[: rules.max_candidates])
    if not adapter.has_nms:
        # Before they are clipped, as in the references: what lies outside of the frame counts too.
        found = found.take(suppress(found, rules))
    boxes, inside = _to_frame(found.boxes, geometry)
    size = {"width": geometry.frame_width, "height": geometry.frame_height}
    inside &= selection.keeps_places(boxes, **size)
    if not inside.all():
        found, boxes = found.take(inside), boxes[:, inside]
    if len(found.scores) > rules.max_detections:
        first = slice(rules.max_detections)
        found, boxes = found.take(first), boxes[:, first]
    return _of_visible_masks(
        sv.Detections(
            xyxy=boxes.T.copy(),
            confidence=np.minimum(found.scores, 1),  # rounding may raise one with fewer than 32 bits above 1
            class_id=found.classes,
            data=_data(found, boxes, outputs, geometry=geometry, manifest=manifest),
        )
    )


def _of_visible_masks(detections: sv.Detections) -> sv.Detections:
    """Those whose mask has a pixel, if there are masks, as the reference of Ultralytics' models does.

    supervision reads no masks at all of a frame in which one has no outline.
    """
    masks = data_of(detections, MASKS)
    if masks is None:
        return detections
    visible = np.array([mask.bits.any() for mask in masks], np.bool_)
    kept = detections if visible.all() else detections[visible]
    assert isinstance(kept, sv.Detections)
    return kept


def _sound(found: Candidates) -> Candidates:
    """Those whose boxes are not empty, and nearer than what is only noise or not a number."""
    boxes = found.boxes
    sound = (boxes[2] > boxes[0]) & (boxes[3] > boxes[1]) & (np.abs(boxes) <= _FURTHEST).all(axis=0)
    if found.rotated is not None:
        sound &= (np.abs(found.rotated[2:4]) <= _FURTHEST).all(axis=0)
    return found if sound.all() else found.take(sound)


def _to_frame(boxes: Floats, geometry: Geometry) -> tuple[Floats, Any]:
    """Convert to pixels of the frame and clip. Also: which boxes are inside."""
    frame = np.array([[geometry.frame_width], [geometry.frame_height]] * 2, np.float32)
    boxes = np.minimum(np.maximum(geometry.to_frame(boxes.T).T, 0), frame)
    return boxes, (boxes[2] > boxes[0]) & (boxes[3] > boxes[1])


def _data(
    found: Candidates, boxes: Floats, outputs: Outputs, *, geometry: Geometry, manifest: Manifest
) -> dict[str, Any]:
    """What the task of the model adds to the boxes."""
    if found.rotated is not None:
        return {CORNERS: _corners(found.rotated, geometry)}
    if found.keypoints is not None:
        return {KEYPOINTS: _keypoints(found.keypoints, geometry)}
    if found.coefficients is not None or found.masks is not None:
        return {MASKS: masks_of(found, boxes, outputs, geometry=geometry, manifest=manifest)}
    return {}


def _corners(rotated: Floats, geometry: Geometry) -> Floats:
    """The corners (n, 4, 2) of rotated boxes (5, n), in pixels of the frame. They may lie outside of it."""
    x, y, width, height, angle = rotated
    cos, sin = np.cos(angle), np.sin(angle)
    along = np.stack([width * cos, width * sin], axis=1) / 2
    across = np.stack([-height * sin, height * cos], axis=1) / 2
    center = np.stack([x, y], axis=1)
    corners = np.stack(
        [center + along + across, center + along - across, center - along - across, center - along + across],
        axis=1,
    )
    return geometry.points_to_frame(corners.reshape(-1, 2)).reshape(corners.shape)


def _keypoints(keypoints: Floats, geometry: Geometry) -> Floats:
    """Key points (n, points, 3) in pixels of the frame, clipped to it, with confidences from 0 to 1."""
    points = geometry.points_to_frame(keypoints[:, :, :2].reshape(-1, 2)).reshape(*keypoints.shape[:2], 2)
    frame = np.array([geometry.frame_width, geometry.frame_height], np.float32)
    points = np.clip(np.nan_to_num(points, nan=0.0), 0, frame)
    confidence = np.clip(np.nan_to_num(keypoints[:, :, 2:], nan=0.0), 0, 1)
    return np.concatenate([points, confidence], axis=2)


def _first(given: T | None, default: T) -> T:
    return default if given is None else given
