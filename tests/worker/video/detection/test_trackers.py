"""What a tracker needs of the outputs of a model."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.values import Task
from streamfleet_core.protocol.values import Tracker as TrackerName
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.trackers import rules_with_weak


@pytest.mark.parametrize(
    ("tracker", "task", "confidence", "read"),
    [
        ("bytetrack", "detect", 0.4, 0.1),
        ("bytetrack", "obb", 0.4, 0.1),
        ("bytetrack", "detect", 0.05, 0.05),
        ("bytetrack", "segment", 0.4, 0.4),
        ("sort", "detect", 0.4, 0.4),
        (None, "detect", 0.4, 0.4),
    ],
)
def test_bytetrack_gets_weak_boxes_of_tasks_without_masks(
    tracker: TrackerName | None, task: Task, confidence: float, read: float
) -> None:
    rules = PostProcessing(confidence=confidence, max_detections=7)

    assert rules_with_weak(rules, tracker, task) == PostProcessing(confidence=read, max_detections=7)
