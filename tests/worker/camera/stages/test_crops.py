"""Which objects a stage gets, and how much of the frame around each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.protocol.values import ModelRef, Stage
from streamfleet_worker.camera.stages.crops import Crop, crops_of

LABELS = ("plate", "person")
STAGE = Stage(name="text", model=ModelRef("ocr/1", "0" * 64))


def found(*boxes: tuple[float, ...], classes: tuple[int, ...] | None = None) -> sv.Detections:
    return sv.Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        confidence=np.linspace(0.9, 0.5, len(boxes)).astype(np.float32),
        class_id=np.array(classes or [0] * len(boxes), np.int64),
    )


def crops(findings: sv.Detections | sv.Classifications, stage: Stage = STAGE) -> list[Crop]:
    return crops_of(findings, stage, labels=LABELS, width=200, height=100)


def test_a_crop_covers_the_box_to_whole_pixels() -> None:
    assert crops(found((10.4, 20.6, 30.2, 40.0))) == [Crop(index=0, left=10, top=20, right=31, bottom=40)]


def test_a_margin_is_a_part_of_the_box_and_ends_at_the_frame() -> None:
    stage = replace(STAGE, margin=0.5)

    assert crops(found((10, 20, 30, 40)), stage) == [Crop(index=0, left=0, top=10, right=40, bottom=50)]
    assert crops(found((150, 60, 200, 100)), stage)[0].right == 200


def test_only_objects_of_the_named_classes_are_cut_out() -> None:
    findings = found((0, 0, 9, 9), (10, 0, 19, 9), (20, 0, 29, 9), classes=(0, 1, 0))

    assert [each.index for each in crops(findings)] == [0, 1, 2]
    assert [each.index for each in crops(findings, replace(STAGE, classes=("person",)))] == [1]


def test_the_most_confident_objects_are_first_and_the_rest_is_left_out() -> None:
    findings = found(*[(10 * at, 0, 10 * at + 9, 9) for at in range(10)])

    assert [each.index for each in crops(findings, replace(STAGE, max_objects=3))] == [0, 1, 2]


def test_what_is_too_small_takes_no_place() -> None:
    findings = found((10, 10, 10.5, 50), (20, 20, 40, 40))

    assert [each.index for each in crops(findings, replace(STAGE, max_objects=1))] == [1]


@pytest.mark.parametrize(
    "findings", [sv.Detections.empty(), sv.Classifications(np.array([0]), np.array([0.9]))]
)
def test_where_no_object_was_found_there_is_no_crop(findings: sv.Detections | sv.Classifications) -> None:
    assert crops(findings) == []


@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.floats(0, 1),
)
def test_a_crop_lies_in_the_frame(parts: list[float], margin: float) -> None:
    left, right = sorted(part * 200 for part in parts[:2])
    top, bottom = sorted(part * 100 for part in parts[2:])

    for crop in crops(found((left, top, right, bottom)), replace(STAGE, margin=margin)):
        assert 0 <= crop.left < crop.right <= 200
        assert 0 <= crop.top < crop.bottom <= 100
