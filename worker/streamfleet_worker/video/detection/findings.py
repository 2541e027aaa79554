"""What was found in a frame: detections, or the classes of the whole picture.

Detections carry what a task adds in `data`, one entry each, so that it is selected and sorted with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv
from supervision.config import ORIENTED_BOX_COORDINATES

Findings = sv.Detections | sv.Classifications
# What stages have found in objects: by the index of the object, then by the name of the stage. A stage that
# has not run on an object is missing.
Nested = Mapping[int, Mapping[str, Findings]]

CORNERS: str = ORIENTED_BOX_COORDINATES  # (n, 4, 2): the corners of oriented boxes, in pixels of the frame
KEYPOINTS = "keypoints"  # (n, points, 3): x and y in pixels of the frame, and the confidence
MASKS = "masks"  # (n,) objects: a `BoxMask` each


def data_of(detections: sv.Detections, key: str) -> npt.NDArray[Any] | None:
    """What the task of the model has added under this key; None if it has not."""
    values = detections.data.get(key)
    return None if values is None else np.asarray(values)


def count_of(findings: Findings) -> int:
    """The number of objects. A picture of which a class is known is one."""
    return len(findings) if isinstance(findings, sv.Detections) else min(len(findings), 1)


def resized(findings: Findings, scale: float) -> Findings:
    """Findings in pixels of the resized frame, of which one of the frame has `scale`."""
    if scale == 1 or not isinstance(findings, sv.Detections):
        return findings
    data = dict(findings.data)
    if CORNERS in data:
        data[CORNERS] = np.asarray(data[CORNERS]) * np.float32(scale)
    if KEYPOINTS in data:
        data[KEYPOINTS] = np.asarray(data[KEYPOINTS]) * np.array([scale, scale, 1], np.float32)
    if MASKS in data:
        masks = np.empty(len(findings), object)
        for index, mask in enumerate(data[MASKS]):
            masks[index] = mask.resized(scale, scale)
        data[MASKS] = masks
    return sv.Detections(
        xyxy=findings.xyxy * np.float32(scale),
        confidence=findings.confidence,
        class_id=findings.class_id,
        tracker_id=findings.tracker_id,
        data=data,
    )


def moved(findings: Findings, left: int, top: int) -> Findings:
    """Findings in a part of a frame whose corner is here, in pixels of the whole frame."""
    if not isinstance(findings, sv.Detections):
        return findings
    data = dict(findings.data)
    if CORNERS in data:
        data[CORNERS] = np.asarray(data[CORNERS]) + np.array([left, top], np.float32)
    if KEYPOINTS in data:
        data[KEYPOINTS] = np.asarray(data[KEYPOINTS]) + np.array([left, top, 0], np.float32)
    if MASKS in data:
        masks = np.empty(len(findings), object)
        for index, mask in enumerate(data[MASKS]):
            masks[index] = replace(mask, left=mask.left + left, top=mask.top + top)
        data[MASKS] = masks
    offset = np.array([left, top, left, top], np.float32)
    return sv.Detections(
        xyxy=findings.xyxy + offset, confidence=findings.confidence, class_id=findings.class_id, data=data
    )
