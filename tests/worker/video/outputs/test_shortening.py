"""What a prediction loses first, if space is short."""

from __future__ import annotations

import copy

import msgspec
import pytest
import supervision as sv

from streamfleet_worker.video.outputs.shortening import (
    coarsened,
    has_shapes,
    least_bytes,
    outlined,
    shortened,
    without_shape,
)
from tests.fakes.findings import document, found, oriented, posed, segmented


def test_numbers_get_fewer_decimals_at_every_depth() -> None:
    given = {
        "x": 10.123456,
        "confidence": 0.123456,
        "keypoints": [{"x": 1.26, "y": 2.0, "confidence": 0.98765, "class_id": 0, "class": "nose"}],
    }

    assert shortened(given) == {
        "x": 10.1,
        "confidence": 0.123,
        "keypoints": [{"x": 1.3, "y": 2.0, "confidence": 0.988, "class_id": 0, "class": "nose"}],
    }


def test_what_stages_have_found_is_shortened_too() -> None:
    plate = {"predictions": [{"x": 10.123456, "class": "plate"}]}

    short = shortened({"x": 1.26, "stages": {"plates": plate}})

    assert short == {"x": 1.3, "stages": {"plates": {"predictions": [{"x": 10.1, "class": "plate"}]}}}


def test_corners_and_angle_get_fewer_decimals() -> None:
    given = {"points": [{"x": 1.26, "y": 2.04}] * 4, "rotation": 44.96}

    assert shortened(given) == {"points": [{"x": 1.3, "y": 2.0}] * 4, "rotation": 45.0}


def test_only_masks_can_be_made_simpler() -> None:
    assert has_shapes(document(segmented(1))["predictions"])
    assert has_shapes(document(segmented(1), mask_format="rle")["predictions"])
    for other in (found(1), posed(1), oriented(1)):
        predictions = document(other)["predictions"]
        assert not has_shapes(predictions)
        assert coarsened(predictions, 0, 0) == predictions
        assert [without_shape(one) for one in predictions] == predictions


@pytest.mark.parametrize("mask_format", ["polygon", "rle"])
def test_without_its_shape_a_prediction_has_an_empty_polygon(mask_format: str) -> None:
    (prediction,) = document(segmented(1), mask_format=mask_format)["predictions"]

    bare = without_shape(prediction)

    assert (bare["points"], "rle" in bare) == ([], False)


@pytest.mark.parametrize("findings", [segmented(9, size=300), posed(9), oriented(9), found(9)])
def test_the_lower_bound_is_one(findings: sv.Detections) -> None:
    for mask_format in ("polygon", "rle"):
        predictions = document(findings, mask_format=mask_format)["predictions"]

        encoded = msgspec.json.encode(predictions), msgspec.msgpack.encode(predictions)

        assert least_bytes(predictions) <= min(map(len, encoded))


def test_points_are_shared_and_what_is_given_is_left_alone() -> None:
    predictions = document(segmented(20, size=600))["predictions"]
    before = copy.deepcopy(predictions)

    simple = coarsened(predictions, 400, 5)

    assert predictions == before
    assert 100 < sum(len(one["points"]) for one in simple) <= 400
    assert min(len(one["points"]) for one in coarsened(predictions, 0, 5)) >= 3
    assert max(len(one["points"]) for one in coarsened(predictions, 0, 5)) <= 5


@pytest.mark.parametrize("size", [30, 300])
def test_run_lengths_become_a_polygon(size: int) -> None:
    (given,) = document(segmented(1, size=size), mask_format="rle")["predictions"]
    (polygon,) = document(segmented(1, size=size))["predictions"]

    instead = outlined(given)

    assert {**instead, "points": [], "detection_id": ""} == {**polygon, "points": [], "detection_id": ""}
    assert 3 <= len(instead["points"]) <= 128
    assert outlined(polygon) is polygon
