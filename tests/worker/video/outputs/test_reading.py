"""Documents are read back to what they were made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import supervision as sv

from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS
from streamfleet_worker.video.outputs.reading import (
    boxes_of,
    findings_in,
    is_classified,
    supervision_detections,
)
from tests.fakes.findings import classified, dense, document, found, oriented, posed, segmented


def test_boxes_are_read_without_masks() -> None:
    sent = segmented(20, size=200, tracked=True)

    back = boxes_of(document(sent))

    assert back.mask is None
    np.testing.assert_allclose(back.xyxy, sent.xyxy, atol=0.001)
    np.testing.assert_array_equal(back.tracker_id, sent.tracker_id)


@pytest.mark.parametrize("mask_format", ["polygon", "rle"])
def test_masks_are_read_within_their_boxes(mask_format: str) -> None:
    sent = segmented(5, size=300)

    back = findings_in(document(sent, mask_format=mask_format))

    for mask, read in zip(sent.data[MASKS], back.data[MASKS], strict=True):
        whole, again = dense(mask), dense(read)
        assert (whole & again).sum() / (whole | again).sum() > 0.97
        assert read.bits.size <= mask.bits.size


def test_corners_and_key_points_are_read() -> None:
    boxes, poses = oriented(4), posed(4)

    np.testing.assert_allclose(
        np.asarray(findings_in(document(boxes)).data[CORNERS]), np.asarray(boxes.data[CORNERS])
    )
    np.testing.assert_allclose(
        np.asarray(findings_in(document(poses)).data[KEYPOINTS]), np.asarray(poses.data[KEYPOINTS])
    )


def test_key_points_that_were_left_out_have_no_confidence() -> None:
    whole = document(posed(2, points=3))
    del whole["predictions"][0]["keypoints"][1]

    keypoints = np.asarray(findings_in(whole).data[KEYPOINTS])

    assert keypoints[0, 1].tolist() == [0, 0, 0]
    assert keypoints[0, 2, 0] == pytest.approx(whole["predictions"][0]["keypoints"][1]["x"])


def test_supervision_gets_corners_and_masks() -> None:
    turned, masked = (
        supervision_detections(document(oriented(3))),
        supervision_detections(document(segmented(3))),
    )

    assert np.asarray(turned.data[CORNERS]).shape == (3, 4, 2)
    assert turned.mask is None
    assert masked.mask is not None
    assert len(supervision_detections(document(found(0)))) == 0


def test_only_some_objects_with_masks_are_read_as_boxes() -> None:
    whole = document(segmented(2))
    del whole["predictions"][1]["points"], whole["predictions"][1]["mask_format"]

    assert findings_in(whole).data.keys() == {"class_name"}


def test_a_classified_picture_has_no_boxes() -> None:
    assert is_classified(document(classified(2)))
    assert not is_classified(document(found(2)))
    with pytest.raises(KeyError):
        boxes_of(document(classified(2)))


@pytest.mark.parametrize(
    "odd",
    [
        {"points": [{"x": float("nan"), "y": 1}] * 3},
        {"points": [{"x": 1e300, "y": 1}] * 3},
        {"points": [{"x": 0, "y": 0}, {"x": 1e6, "y": 1e6}]},
        {"points": [{"x": "left", "y": 1}]},
        {"points": [{}]},
        {"points": [{"x": 1, "y": 1}] * 3, "rotation": 5},
        {"rle": {"size": [9, 9], "counts": "?"}},
        {"rle": {"size": [10**9, 10**9], "counts": "0"}},
        {"rle": {}},
    ],
)
def test_a_document_that_cannot_be_read_is_an_error_of_its_value(odd: dict[str, Any]) -> None:
    whole = document(found(1))
    whole["predictions"][0].update(odd)

    with pytest.raises((KeyError, TypeError, ValueError)):
        findings_in(whole)


def test_an_empty_outline_is_an_empty_mask() -> None:
    whole = document(segmented(1))
    whole["predictions"][0]["points"] = []

    assert not findings_in(whole).data[MASKS][0].bits.any()


def test_a_frame_without_objects_is_read() -> None:
    assert isinstance(findings_in(document(found(0))), sv.Detections)
