"""What is drawn of each task, and where."""

from __future__ import annotations

import numpy as np
import pytest
import supervision as sv

from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.outputs.drawing import captions, draw_findings, draw_shapes
from tests.fakes.findings import LABELS, classified, column, oriented, posed, segmented


def one_box(tracker_id: int | None = None) -> sv.Detections:
    """A box from (20, 40) to (120, 100)."""
    return sv.Detections(
        xyxy=np.array([[20, 40, 120, 100]], np.float32),
        confidence=np.array([0.876], np.float32),
        class_id=np.array([1]),
        tracker_id=None if tracker_id is None else np.array([tracker_id]),
    )


def black() -> np.ndarray:
    """A picture without anything."""
    return np.zeros((200, 300, 3), np.uint8)


def lit(picture: np.ndarray) -> np.ndarray:
    """Where something is drawn."""
    return picture.max(axis=2) > 0


def test_a_caption_says_class_confidence_and_track() -> None:
    assert captions(one_box(), LABELS) == ["person 0.88"]
    assert captions(one_box(7), LABELS) == ["person 0.88 #7"]


@pytest.mark.parametrize("place", [(30, 50), (-10, -20), (280, 190), (-500, 20), (900, 900)])
def test_the_pixels_of_a_mask_are_tinted_and_no_others(place: tuple[int, int]) -> None:
    detections = one_box()
    left, top = place
    detections.data[MASKS] = column(BoxMask(left, top, np.ones((25, 40), np.uint8)))

    picture = draw_shapes(black(), detections)

    expected = np.zeros((200, 300), np.bool_)
    expected[max(0, top) : max(0, top + 25), max(0, left) : max(0, left + 40)] = True
    np.testing.assert_array_equal(lit(picture), expected)


def test_an_oriented_box_is_drawn_instead_of_the_box_around_it() -> None:
    detections = one_box()
    detections.data[CORNERS] = np.array([[[70, 40], [120, 70], [70, 100], [20, 70]]], np.float32)

    picture = lit(draw_findings(black(), detections, LABELS, text_scale=0.4))

    assert picture[70, 20] and picture[100, 70] and picture[85, 95]
    assert not picture[98:101, 22:60].any()


def test_the_skeleton_of_a_person_has_bones_where_both_ends_are_seen() -> None:
    detections = one_box()
    points = np.zeros((1, 17, 3), np.float32)
    points[0, :, 2] = 0.1
    points[0, [5, 7]] = [(30, 50, 0.9), (90, 50, 0.9)]  # left shoulder and elbow
    points[0, 9] = (90, 90, 0.4)  # left wrist, which is hardly seen
    detections.data[KEYPOINTS] = points

    picture = lit(draw_shapes(black(), detections))

    assert picture[50, 30:91].all()
    assert not picture[60:].any()


def test_other_key_points_have_no_bones() -> None:
    detections = one_box()
    detections.data[KEYPOINTS] = np.array([[(30, 50, 0.9), (90, 50, 0.9)]], np.float32)

    picture = lit(draw_shapes(black(), detections))

    assert picture[50, 30] and picture[50, 90]
    assert not picture[:, 40:80].any()


def test_a_picture_has_its_best_classes_in_its_corner() -> None:
    three = draw_findings(black(), classified(3), ("a", "b", "c"), text_scale=0.4)
    many = draw_findings(black(), classified(50), tuple("abc") + ("label",) * 47, text_scale=0.4)

    assert three.any()
    assert not three[100:].any()
    assert many[:100].any(axis=2).sum() < 2 * three.any(axis=2).sum()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_of_a_broken_model_hold_up_nothing(value: float) -> None:
    poses = posed(3)
    np.asarray(poses.data[KEYPOINTS])[:, :, 2] = 0.9
    for findings, key in ((oriented(3), CORNERS), (poses, KEYPOINTS)):
        np.asarray(findings.data[key])[1, 1, 0] = value
        draw_findings(black(), findings, LABELS, text_scale=0.4)


def test_three_hundred_masks_are_drawn() -> None:
    picture = draw_findings(np.zeros((1000, 1000, 3), np.uint8), segmented(300), LABELS, text_scale=0.4)

    assert lit(picture).sum() > 10_000
