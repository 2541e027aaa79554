"""Findings as boxes that can be compared with those of another model. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import supervision as sv

from streamfleet_core.models.agreement import Box
from streamfleet_worker.video.detection.findings import Findings
from streamfleet_worker.video.detection.letterbox import Geometry


def boxes_of(findings: Findings, labels: Sequence[str], geometry: Geometry) -> list[Box]:
    """Findings as boxes; a class of the whole picture is a box around it."""
    if isinstance(findings, sv.Classifications):
        whole = [0.0, 0.0, float(geometry.frame_width), float(geometry.frame_height)]
        corners = [whole] * len(findings.class_id)
    else:
        corners = findings.xyxy.tolist()
    assert findings.confidence is not None
    assert findings.class_id is not None
    return [
        Box(
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            label=labels[number],
            confidence=float(confidence),
        )
        for (left, top, right, bottom), number, confidence in zip(
            corners, findings.class_id.tolist(), findings.confidence, strict=True
        )
    ]
