"""What a source keeps of the objects that a model finds."""

from __future__ import annotations

import numpy as np
import pytest

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.families.adapter import Candidates
from streamfleet_worker.video.detection.selection import ALL, selection_of, selection_problem

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
