"""Transformers: each form of their outputs gives the same boxes."""

from __future__ import annotations

import numpy as np
import pytest

from streamfleet_core.protocol.values import Family, Manifest, Weights
from streamfleet_worker.families.adapter import BadOutput, Outputs
from streamfleet_worker.families.adapters import adapter_of
from streamfleet_worker.families.detr import check_parts
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.letterbox import fit
from streamfleet_worker.video.detection.postprocess import decode
from tests.fakes.detections_columns import class_ids, scores

LABELS = ("bolt", "nut", "pin")
RULES = PostProcessing(confidence=0.3)
# Of a frame of 200 x 100 in an input of 64 x 64: center and size from 0 to 1.
PARTS = np.array([[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.1, 0.2], [0.95, 0.1, 0.2, 0.4]], np.float32)
SCORES = np.array([[0.9, 0.1, 0.05], [0.1, 0.2, 0.25], [0.02, 0.03, 0.7]], np.float32)
EXPECTED = [[80, 30, 120, 70], [170, 0, 200, 30]]


def manifest(family: Family) -> Manifest:
    return Manifest(
        family=family, labels=LABELS, input_width=64, input_height=64, weights=Weights("0" * 64, 1)
    )


def outputs_of(family: Family) -> Outputs:
    """The outputs of a model of this family that has found the same."""
    logits = np.log(SCORES / (1 - SCORES))
    best, classes = SCORES.max(axis=1), SCORES.argmax(axis=1)
    corners = np.hstack([PARTS[:, :2] - PARTS[:, 2:] / 2, PARTS[:, :2] + PARTS[:, 2:] / 2]) * 64
    outputs = {
        "rtdetr": [np.hstack([PARTS, SCORES])],
        "rtdetr-topk": [np.column_stack([PARTS, best, classes])],
        "detr": [logits, PARTS],
        "detr-deploy": [classes, corners, best],
        "rfdetr": [PARTS, logits],
    }
    return [output[None].astype(np.float32) for output in outputs[family]]


@pytest.mark.parametrize("family", ["rtdetr", "rtdetr-topk", "detr", "detr-deploy", "rfdetr"])
def test_each_form_gives_the_same_boxes_in_a_stretched_picture(family: Family) -> None:
    of, outputs = manifest(family), outputs_of(family)
    adapter_of(of).check_shapes([output.shape for output in outputs], of)
    adapter_of(of).check_values(outputs, of)

    found = decode(outputs, fit(200, 100, of), manifest=of, rules=RULES)

    np.testing.assert_allclose(found.xyxy, EXPECTED, atol=1e-3)
    assert class_ids(found).tolist() == [0, 2]
    np.testing.assert_allclose(scores(found), [0.9, 0.7], atol=1e-6)


def test_scores_of_two_classes_are_no_scores_and_classes() -> None:
    of = Manifest(
        family="rtdetr-topk",
        labels=LABELS[:2],
        input_width=64,
        input_height=64,
        weights=Weights("0" * 64, 1),
    )
    outputs = [np.hstack([PARTS, SCORES[:, :2]])[None]]

    with pytest.raises(BadOutput, match=r"--family rtdetr$"):
        adapter_of(of).check_values(outputs, of)


def test_the_column_of_no_object_is_left_out() -> None:
    of, (boxes, logits) = manifest("rfdetr"), outputs_of("rfdetr")
    more = np.concatenate([logits, np.full((1, 3, 1), 9, np.float32)], axis=2)
    adapter_of(of).check_shapes([boxes.shape, more.shape], of)

    found = decode([boxes, more], fit(200, 100, of), manifest=of, rules=RULES)

    np.testing.assert_allclose(found.xyxy, EXPECTED, atol=1e-3)


def test_boxes_in_pixels_are_told_from_parts_of_the_picture_by_most_of_them() -> None:
    parts = np.full((100, 4), 0.5, np.float32)
    parts[0, 0] = 14.0  # a query without an object: nothing bounds its box

    check_parts(parts)

    with pytest.raises(BadOutput, match="parts of the picture, from 0 to 1, got mostly 160"):
        check_parts(parts * 320)
    with pytest.raises(BadOutput, match="got mostly nan"):
        check_parts(np.full((10, 4), np.nan, np.float32))
