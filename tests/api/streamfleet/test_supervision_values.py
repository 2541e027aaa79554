"""What models of each task find, as values of supervision: from 0.27 on, and whatever a device sends."""

from __future__ import annotations

from typing import Any, cast

import msgpack
import numpy as np
import pytest
import supervision as sv

from streamfleet.prediction import Prediction
from streamfleet_core.protocol.prediction import decode
from tests.fakes.found import (
    BOX,
    CLASSIFIED,
    HEIGHT,
    KEYPOINTS,
    ORIENTED,
    OUTLINED,
    RUN_LENGTHS,
    WIDTH,
    document,
    keypoint,
    points,
)


def prediction(*objects: dict[str, Any], **changes: Any) -> Prediction:
    """A prediction as it is received."""
    sent = {**document(*objects), "inference_metadata": {}, **changes}
    return Prediction.of(decode(msgpack.packb(sent)), "door", (1, 0, 0))


def rectangle() -> np.ndarray:
    """The mask of objects that have one."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[8:12, 16:24] = True
    return mask


def names(found: sv.Detections) -> list[str]:
    return [str(name) for name in found.data["class_name"]]


@pytest.mark.parametrize("found", [BOX, OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS], ids=str)
def test_each_object_has_its_box_and_class(found: dict[str, Any]) -> None:
    got = prediction(found, {**found, "x": 30.0, "class": "bolt", "class_id": 0}).detections

    assert got.xyxy.tolist() == [[16, 8, 24, 12], [26, 8, 34, 12]]
    assert got.confidence is not None
    assert got.confidence.tolist() == [0.75, 0.75]
    assert got.class_id is not None
    assert got.class_id.tolist() == [1, 0]
    assert names(got) == ["nut", "bolt"]
    assert got.tracker_id is None


@pytest.mark.parametrize("found", [OUTLINED, RUN_LENGTHS], ids=["points", "rle"])
def test_a_mask_has_the_size_of_the_frame(found: dict[str, Any]) -> None:
    got = prediction(found).detections

    assert got.mask is not None
    np.testing.assert_array_equal(np.asarray(got.mask), rectangle()[None])


@pytest.mark.parametrize(
    "other",
    [
        BOX,
        {**BOX, "points": []},
        {**RUN_LENGTHS, "rle": {"size": [HEIGHT, WIDTH], "counts": "no runs"}},
        {**RUN_LENGTHS, "rle": {"size": [1, 1], "counts": "01"}},
    ],
    ids=["none", "no points", "no runs", "of another size"],
)
def test_an_object_whose_mask_cannot_be_drawn_has_an_empty_one(other: dict[str, Any]) -> None:
    got = prediction(OUTLINED, {**other, "class": "bolt"}).detections

    assert names(got) == ["nut", "bolt"]
    np.testing.assert_array_equal(np.asarray(got.mask), [rectangle(), np.zeros((HEIGHT, WIDTH))])


def test_points_far_outside_are_cut_at_the_frame() -> None:
    got = prediction({**OUTLINED, "points": points((-1e15, -1e15), (1e15, -1e15), (1e15, 1e15))}).detections

    assert got.mask is not None
    assert np.asarray(got.mask)[0, 0, 0]


def test_masks_beyond_what_a_computer_holds_are_left_out() -> None:
    got = prediction(OUTLINED, image={"width": 65_535, "height": 65_535}).detections

    assert (len(got), got.mask) == (1, None)


def test_a_few_bytes_do_not_become_gigabytes_of_masks() -> None:
    side = 30_000  # one mask of 900 million pixels
    whole = {"size": [side, side], "counts": "0"}

    got = prediction({**BOX, "rle": whole}, image={"width": side, "height": side}).detections

    assert got.mask is None
    assert len(got) == 1


def test_one_key_point_of_each_object_does_not_become_millions() -> None:
    point = {"x": 1.0, "y": 1.0, "confidence": 1.0, "class_id": 511, "class": "toe"}

    assert len(prediction(*[{**BOX, "keypoints": [point]}] * 512).key_points) == 512
    assert len(prediction(*[{**BOX, "keypoints": [point]}] * 513).key_points) == 0


def test_an_oriented_box_has_its_corners_and_no_mask() -> None:
    got = prediction(ORIENTED).detections

    assert np.asarray(got.data["xyxyxyxy"]).tolist() == [[[16, 10], [20, 8], [24, 10], [20, 12]]]
    assert got.mask is None


def test_tracker_ids_are_of_all_objects_or_of_none() -> None:
    followed = {**OUTLINED, "tracker_id": 7}

    both = prediction(followed, {**followed, "tracker_id": 9}).detections
    one = prediction(followed, OUTLINED).detections

    assert both.tracker_id is not None
    assert both.tracker_id.tolist() == [7, 9]
    assert (len(one), one.tracker_id) == (2, None)


@pytest.mark.parametrize("changes", [{}, CLASSIFIED, {"predictions": [{}, {"class": "nut"}]}], ids=str)
def test_without_an_object_everything_is_empty(changes: dict[str, Any]) -> None:
    got = prediction(**changes)

    assert (len(got.detections), names(got.detections), got.detections.mask) == (0, [], None)
    assert got.detections.xyxy.shape == (0, 4)
    assert len(got.key_points) == 0
    assert sv.Detections.merge([got.detections, prediction(BOX).detections]).class_id is not None


def test_key_points_are_in_the_order_of_the_objects() -> None:
    reverse = {**BOX, "class": "bolt", "class_id": 0, "keypoints": [keypoint(1, 5.0, 6.0, 0.5)]}

    got = prediction(KEYPOINTS, BOX, reverse)

    assert got.key_points.xy.tolist() == [[[18, 9], [22, 11]], [[0, 0], [0, 0]], [[0, 0], [5, 6]]]
    assert [str(name) for name in got.key_points.data["class_name"]] == names(got.detections)
    field = "keypoint_confidence" if hasattr(got.key_points, "keypoint_confidence") else "confidence"
    sure: Any = getattr(got.key_points, field)
    np.testing.assert_allclose(sure, np.array([[0.9, 0.25], [0, 0], [0, 0.5]]))


def test_classes_of_a_picture_are_the_most_confident_first() -> None:
    got = prediction(**CLASSIFIED)

    assert got.classifications.class_id.tolist() == [2, 0]
    assert got.classifications.confidence is not None
    assert got.classifications.confidence.tolist() == [0.75, 0.25]
    assert [each["class"] for each in got.objects] == ["cat", "dog"]
    assert len(prediction(BOX).classifications) == 0


@pytest.mark.parametrize("found", [BOX, OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS], ids=str)
@pytest.mark.parametrize("ids", [{}, {"tracker_id": 7}], ids=["", "followed"])
def test_supervision_reads_the_documents_itself(found: dict[str, Any], ids: dict[str, int]) -> None:
    """As programs do that receive datagrams, and as they did before there were other tasks."""
    sent = prediction({**found, **ids}, {**found, **ids, "x": 30.0})

    got, ours = sv.Detections.from_inference(cast(Any, sent.document)), sent.detections

    assert got.xyxy.tolist() == ours.xyxy.tolist()
    assert names(got) == names(ours)
    np.testing.assert_array_equal(got.tracker_id, ours.tracker_id)
    assert len(sv.Detections.from_inference(cast(Any, prediction().document))) == 0
