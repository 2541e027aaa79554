"""The predictions document: the original's keys, in its order, for each task."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.values import MaskFormat
from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.outputs.encoding import to_json
from streamfleet_worker.video.outputs.prediction import MAX_POINTS, Names, describe
from tests.fakes.findings import (
    HEIGHT,
    LABELS,
    ORIGIN,
    WIDTH,
    blob,
    classified,
    column,
    dense,
    document,
    found,
    oriented,
    posed,
    segmented,
)


def test_the_bytes_are_the_originals() -> None:
    one = sv.Detections(
        xyxy=np.array([[-5.0, 0.5, 25.0, 40.5]], np.float32),
        confidence=np.array([0.5], np.float32),
        class_id=np.array([0]),
    )

    encoded = to_json(describe(one, names=Names(LABELS), width=426, height=240, origin=ORIGIN))

    name = json.loads(encoded.content)["predictions"][0]["detection_id"]
    decoded_at = datetime.fromtimestamp(ORIGIN.decoded_at).isoformat()  # noqa: DTZ006 (local, as the original)
    emitted_at = datetime.fromtimestamp(ORIGIN.emitted_at).isoformat()  # noqa: DTZ006
    assert encoded.truncated == 0
    assert uuid.UUID(name).version == 4
    assert encoded.content.decode() == (
        '{"image": {"width": 426, "height": 240}, "predictions": [{"x": 10.0, "y": 20.5, "width": 30.0, '
        f'"height": 40.0, "confidence": 0.5, "class": "car", "class_id": 0, "detection_id": "{name}"}}], '
        f'"inference_metadata": {{"source_id": 0, "frame_id": 12, "frame_decoding_time": "{decoded_at}", '
        f'"emission_time": "{emitted_at}", "pipeline_id": "pipeline-1", "device": "device-1", "gen": 3, '
        '"inc": 2, "seq": 11}}'
    )


def test_an_empty_scene_is_sent_as_such() -> None:
    encoded = to_json(document(sv.Detections.empty()))

    assert b'"predictions": []' in encoded.content


def test_a_tracker_id_stands_before_the_detection_id() -> None:
    (prediction,) = document(found(1, tracked=True))["predictions"]

    assert list(prediction) == [
        *("x", "y", "width", "height", "confidence", "class", "class_id", "tracker_id", "detection_id")
    ]
    assert prediction["tracker_id"] == 100


def test_every_detection_has_an_id_of_its_own() -> None:
    names = [one["detection_id"] for one in document(found(2000))["predictions"]]

    assert len(set(names)) == 2000
    assert {(uuid.UUID(name).version, uuid.UUID(name).variant) for name in names} == {(4, uuid.RFC_4122)}


# the other tasks

KEYS = [*("x", "y", "width", "height", "confidence", "class", "class_id", "tracker_id", "detection_id")]


@pytest.mark.parametrize(
    ("make", "mask_format", "further"),
    [
        (segmented, "polygon", ["points", "mask_format"]),
        (segmented, "rle", ["rle", "mask_format"]),
        (posed, "polygon", ["keypoints"]),
        (oriented, "polygon", ["points", "rotation"]),
    ],
)
def test_each_task_adds_its_keys_after_those_of_boxes(
    make: Callable[..., sv.Detections], mask_format: MaskFormat, further: list[str]
) -> None:
    (prediction,) = document(make(1, tracked=True), mask_format=mask_format)["predictions"]

    assert list(prediction) == [*KEYS, *further]
    assert prediction.get("mask_format", mask_format) == mask_format


@pytest.mark.parametrize(("mask_format", "least_shared"), [("polygon", 0.98), ("rle", 1)])
def test_supervision_reads_the_masks_of_either_format(mask_format: str, least_shared: float) -> None:
    sent = segmented(5, size=400)

    back = sv.Detections.from_inference(document(sent, mask_format=mask_format))

    assert back.mask is not None
    for mask, read in zip(sent.data[MASKS], np.asarray(back.mask), strict=True):
        whole = dense(mask)
        assert (whole & read).sum() / (whole | read).sum() >= least_shared


def test_a_polygon_has_a_bounded_number_of_whole_pixels() -> None:
    ragged = np.random.default_rng(1).integers(0, 2, (900, 1500)).astype(np.uint8)
    ragged[10:-10, 10:-10] = 1
    mask = BoxMask(100, 50, ragged)
    one = found(1)
    one.data[MASKS] = column(mask)

    (prediction,) = document(one)["predictions"]

    assert len(mask.polygon()) > MAX_POINTS
    assert 100 < len(prediction["points"]) <= MAX_POINTS
    assert {type(value) for point in prediction["points"] for value in point.values()} == {int}


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_a_mask_of_a_pixel_or_a_row_is_a_polygon_that_supervision_reads(size: tuple[int, int]) -> None:
    thin = BoxMask(20, 30, np.ones(size, np.uint8))
    both = found(2)
    both.data[MASKS] = column(thin, blob(100, 100, 60, 60))

    back = sv.Detections.from_inference(document(both))

    assert back.mask is not None
    np.testing.assert_array_equal(back.mask[0], dense(thin))


def test_an_empty_mask_has_no_points_and_a_full_one_the_corners_of_the_frame() -> None:
    both = found(2)
    empty, full = np.zeros((9, 9), np.uint8), np.ones((HEIGHT, WIDTH), np.uint8)
    both.data[MASKS] = column(BoxMask(5, 5, empty), BoxMask(0, 0, full))

    polygons = document(both)["predictions"]
    runs = [one["rle"] for one in document(both, mask_format="rle")["predictions"]]

    assert [len(one["points"]) for one in polygons] == [0, 4]
    assert [rle["size"] for rle in runs] == [[HEIGHT, WIDTH]] * 2
    sums = [sv.rle_to_mask(rle["counts"], (WIDTH, HEIGHT)).sum() for rle in runs]
    assert sums == [0, WIDTH * HEIGHT]


def test_key_points_have_the_names_of_the_model_and_supervision_reads_them() -> None:
    sent = posed(3, points=2)
    whole = describe(sent, names=Names(LABELS, ("head", "tail")), width=WIDTH, height=HEIGHT, origin=ORIGIN)

    back = sv.KeyPoints.from_inference(whole)

    keypoints = whole["predictions"][0]["keypoints"]
    assert list(keypoints[0]) == ["x", "y", "confidence", "class_id", "class"]
    assert [(one["class_id"], one["class"]) for one in keypoints] == [(0, "head"), (1, "tail")]
    np.testing.assert_allclose(back.xy, np.asarray(sent.data[KEYPOINTS])[:, :, :2], rtol=1e-6)
    assert back.keypoint_confidence is not None
    np.testing.assert_allclose(back.keypoint_confidence, np.asarray(sent.data[KEYPOINTS])[:, :, 2], rtol=1e-6)


def test_key_points_without_names_are_numbered() -> None:
    (prediction,) = document(posed(1, points=512))["predictions"]

    assert [one["class"] for one in prediction["keypoints"]] == [str(number) for number in range(512)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_of_a_broken_model_are_numbers_that_json_has(value: float) -> None:
    one, other = posed(1), oriented(1)
    np.asarray(one.data[KEYPOINTS])[0, 3] = value
    np.asarray(other.data[CORNERS])[0, 1] = value

    for of, key in ((one, "keypoints"), (other, "points")):
        (read,) = json.loads(to_json(document(of)).content)["predictions"]
        assert all(abs(point[axis]) <= 1e6 for point in read[key] for axis in ("x", "y"))


@pytest.mark.parametrize(
    ("corners", "rotation"),
    [
        ([(60, 40), (60, 20), (20, 20), (20, 40)], 0),  # its width lies across
        ([(10, 60), (30, 60), (30, 20), (10, 20)], 90),
        ([(20, 30), (30, 20), (10, 0), (0, 10)], 45),
        ([(20, 0), (10, -10), (-10, 10), (0, 20)], 135),
    ],
)
def test_an_oriented_box_has_its_corners_and_its_angle(
    corners: list[tuple[float, float]], rotation: float
) -> None:
    one = found(1)
    one.data[CORNERS] = np.array([corners], np.float32)

    (prediction,) = document(one)["predictions"]

    assert [(point["x"], point["y"]) for point in prediction["points"]] == corners
    assert prediction["rotation"] == pytest.approx(rotation)


def test_an_oriented_box_is_read_as_the_box_around_it() -> None:
    sent = oriented(4, size=300)

    back = sv.Detections.from_inference(document(sent))

    np.testing.assert_allclose(back.xyxy, sent.xyxy, atol=0.01)
    assert back.mask is not None


def test_a_picture_has_its_classes_and_the_top_one() -> None:
    whole = document(classified(3))

    assert list(whole) == ["image", "predictions", "top", "confidence", "inference_metadata"]
    assert [one["class"] for one in whole["predictions"]] == ["car", "person", "label 2"]
    assert list(whole["predictions"][0]) == ["class", "class_id", "confidence"]
    assert (whole["top"], whole["confidence"]) == ("car", pytest.approx(0.9))
