"""Findings keep what their task adds, through each step from the model to the outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import supervision as sv

from streamfleet_worker.video.detection.findings import MASKS, count_of, moved, resized
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.detection.tracker import Tracker
from tests.fakes.findings import blob, classified, column, dense, found, oriented, posed, segmented

Make = Callable[..., sv.Detections]


@pytest.mark.parametrize("make", [segmented, posed, oriented])
def test_a_tracker_leaves_to_each_object_what_belongs_to_it(make: Make) -> None:
    tracker = Tracker(confidence=0.3, fps=25)
    first, again = make(30, size=80), make(30, size=80)[::-1]
    assert isinstance(again, sv.Detections)
    (key,) = first.data

    before = tracker.update(first, 0.0)
    after = tracker.update(again, 0.04)

    assert before.tracker_id is not None
    assert after.tracker_id is not None
    by_id = dict(zip(before.tracker_id.tolist(), np.asarray(before.data[key]), strict=True))
    assert len(by_id) == 30
    for number, value in zip(after.tracker_id.tolist(), np.asarray(after.data[key]), strict=True):
        if isinstance(value, BoxMask):
            np.testing.assert_array_equal(value.bits, by_id[number].bits)
        else:
            np.testing.assert_array_equal(value, by_id[number])


@pytest.mark.parametrize("make", [found, posed, oriented])
def test_resized_findings_have_the_same_place_in_the_resized_frame(make: Make) -> None:
    whole = make(5, tracked=True)

    half = resized(whole, 0.5)

    assert isinstance(half, sv.Detections)
    np.testing.assert_allclose(half.xyxy, whole.xyxy / 2)
    np.testing.assert_array_equal(half.tracker_id, whole.tracker_id)
    for key, values in whole.data.items():
        places, expected = np.asarray(half.data[key]), np.asarray(values)
        np.testing.assert_allclose(places[:, :, :2], expected[:, :, :2] / 2)
        np.testing.assert_array_equal(places[:, :, 2:], expected[:, :, 2:])


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 0.5])
def test_a_resized_mask_covers_the_same_part_of_the_frame(scale: float) -> None:
    one = found(1)
    one.data[MASKS] = column(blob(303, 201, 600, 401))

    small = resized(one, scale)

    assert isinstance(small, sv.Detections)
    mask = small.data[MASKS][0]
    expected = dense(blob(303, 201, 600, 401)).sum() * scale * scale
    assert mask.bits.sum() == pytest.approx(expected, rel=0.1)
    assert (mask.left, mask.top) == (round(303 * scale), round(201 * scale))


def test_objects_are_counted_and_a_classified_picture_is_one() -> None:
    assert count_of(found(2)) == 2
    assert count_of(sv.Detections.empty()) == 0
    assert count_of(classified(3)) == 1


def test_the_smallest_mask_stays_one() -> None:
    assert BoxMask(100, 100, np.ones((1, 1), np.uint8)).resized(0.01, 0.01).bits.tolist() == [[1]]


def test_what_has_no_place_is_not_resized() -> None:
    classes = classified(3)

    assert resized(classes, 0.5) is classes
    assert moved(classes, 10, 20) is classes
