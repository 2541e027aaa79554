"""What a source keeps of the objects that a model finds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.families.adapter import Candidates
from streamfleet_worker.video.detection.selection import (
    ALL,
    in_polygon,
    selection_of,
    selection_problem,
)

LABELS = ("person", "car", "truck")


def source(*classes: str) -> SourceSpec:
    return SourceSpec(0, classes=classes or None)


def test_candidates_of_kept_classes_stay_with_all_that_belongs_to_them() -> None:
    found = Candidates(
        boxes=np.arange(16.0).reshape(4, 4),
        scores=np.array([0.9, 0.8, 0.7, 0.6]),
        classes=np.array([1, 0, 2, 1]),
        keypoints=np.arange(12.0).reshape(4, 1, 3),
    )

    kept = selection_of(source("car", "zebra"), LABELS).of_kept_classes(found)

    np.testing.assert_array_equal(kept.boxes, found.boxes[:, [0, 3]])
    np.testing.assert_array_equal(kept.scores, [0.9, 0.6])
    np.testing.assert_array_equal(kept.classes, [1, 1])
    assert kept.keypoints is not None
    np.testing.assert_array_equal(kept.keypoints[:, 0, 0], [0, 9])


def test_without_classes_all_are_kept() -> None:
    assert selection_of(source(), LABELS) is ALL
    assert ALL.keeps_classes(np.array([0, 7])).tolist() == [True, True]


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        ((), ""),
        (("car", "person"), ""),
        (("car", "cars"), "classes: expected a class of the model, as 'car'; nothing is found of 'cars'"),
        (
            ("bus", "zebra"),
            "classes: expected a class of the model: 'person', 'car', 'truck'; nothing is found of 'bus', "
            "nor of 1 more names",
        ),
    ],
)
def test_a_name_that_the_model_does_not_have_is_a_problem(classes: tuple[str, ...], problem: str) -> None:
    assert selection_problem(source(*classes), LABELS) == problem


parts = st.integers(0, 16).map(lambda sixteenths: sixteenths / 16)
corners = st.lists(st.tuples(parts, parts), min_size=3, max_size=32)


@given(corners, st.lists(st.tuples(parts, parts), max_size=8))
def test_a_point_is_in_a_polygon_if_a_ray_from_it_crosses_the_sides_an_odd_number_of_times(
    polygon: list[tuple[float, float]], points: list[tuple[float, float]]
) -> None:
    inside = in_polygon(np.array(points).reshape(-1, 2).T, np.array(polygon).T)

    assert inside.tolist() == [is_inside(point, polygon) for point in points]


def is_inside(point: tuple[float, float], polygon: list[tuple[float, float]]) -> bool:
    """The same with exact numbers."""
    x, y = map(Fraction, point)
    crossed = 0
    for start, end in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        (ax, ay), (bx, by) = map(Fraction, start), map(Fraction, end)
        if (ay > y) != (by > y):
            crossed += x < ax + (bx - ax) * (y - ay) / (by - ay)
    return crossed % 2 == 1


@given(st.lists(st.tuples(parts, parts, parts, parts), max_size=8))
def test_a_region_that_is_the_whole_frame_keeps_every_box_inside(sides: list[tuple[float, ...]]) -> None:
    boxes = np.array([[*sorted((a, b + 2)), *sorted((c, d + 2))] for a, b, c, d in sides]).reshape(-1, 4).T
    boxes = boxes[[0, 2, 1, 3]]
    whole = selection_of(SourceSpec(0, region=((0, 0), (1, 0), (1, 1), (0, 1))), LABELS)

    assert whole.keeps_places(boxes, width=3, height=3).all()


def test_the_center_of_a_box_decides_in_pixels_of_the_frame() -> None:
    left_half = selection_of(SourceSpec(0, region=((0, 0), (0.5, 0), (0.5, 1), (0, 1))), LABELS)
    boxes = np.array([[10, 0, 80, 50], [10, 0, 100, 50], [60, 10, 61, 11]], np.float32).T

    assert left_half.keeps_places(boxes, width=100, height=50).tolist() == [True, False, False]
