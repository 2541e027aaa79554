"""Rotated boxes are compared in blocks, with the same result as all at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from streamfleet_worker.families.adapter import Candidates
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.suppression import gaussian_overlaps, suppress


def rotated_boxes(count: int) -> Candidates:
    """Boxes of three classes, many of which overlap."""
    rng = np.random.default_rng(0)
    places, sizes, angles = (
        rng.uniform(0, 400, (2, count)),
        rng.uniform(5, 40, (2, count)),
        rng.uniform(0, 3, count),
    )
    return Candidates(
        boxes=np.zeros((4, count), np.float32),
        scores=rng.uniform(0.4, 1, count).astype(np.float32),
        classes=rng.integers(0, 3, count),
        rotated=np.vstack([places, sizes, angles]).astype(np.float32),
    )


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("count", [1, 127, 128, 129, 700])
def test_boxes_that_a_more_confident_one_overlaps_are_dropped(count: int, agnostic: bool) -> None:
    found = rotated_boxes(count)
    rules = PostProcessing(iou_threshold=0.3, class_agnostic_nms=agnostic)

    kept = suppress(found, rules)

    assert found.rotated is not None
    order = np.argsort(-found.scores, kind="stable")
    boxes = found.rotated[:, order].astype(np.float64)
    overlaps, classes = gaussian_overlaps(boxes, boxes), found.classes[order]
    expected = [
        int(order[index])
        for index in range(count)
        if not any(
            overlaps[other, index] >= 0.3 and (agnostic or classes[other] == classes[index])
            for other in range(index)
        )
    ]
    assert kept.tolist() == expected
    assert count == 1 or len(kept) < count


def test_thousands_of_rotated_boxes_take_little_memory() -> None:
    found = rotated_boxes(3000)

    tracemalloc.start()
    suppress(found, PostProcessing())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100 * 1024**2
