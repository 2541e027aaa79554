"""Which objects of a frame a stage gets, and the part of the frame around each. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import supervision as sv

from streamfleet_core.protocol.values import Stage
from streamfleet_worker.video.detection.findings import Findings

_LEAST = 2  # pixels of a side: less shows nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The part of a frame around an object, in pixels of the frame."""

    index: int  # of the object in the detections
    left: int
    top: int
    right: int
    bottom: int


def crops_of(
    findings: Findings, stage: Stage, *, labels: Sequence[str], width: int, height: int
) -> list[Crop]:
    """The crops for a stage, of the most confident objects first.

    `labels`: the classes of the first model. `width`, `height`: of the frame, in pixels. Objects that are too
    small to show anything are left out.
    """
    if not isinstance(findings, sv.Detections) or len(findings) == 0:
        return []
    assert findings.class_id is not None
    crops: list[Crop] = []
    for index, (box, kind) in enumerate(zip(findings.xyxy.tolist(), findings.class_id.tolist(), strict=True)):
        if len(crops) == stage.max_objects:
            break
        if stage.classes is not None and labels[kind] not in stage.classes:
            continue
        crop = _around(index, box, stage.margin, width, height)
        if crop.right - crop.left >= _LEAST and crop.bottom - crop.top >= _LEAST:
            crops.append(crop)
    return crops


def _around(index: int, box: Sequence[float], margin: float, width: int, height: int) -> Crop:
    left, top, right, bottom = box
    across, down = (right - left) * margin, (bottom - top) * margin
    return Crop(
        index=index,
        left=max(0, math.floor(left - across)),
        top=max(0, math.floor(top - down)),
        right=min(width, math.ceil(right + across)),
        bottom=min(height, math.ceil(bottom + down)),
    )
