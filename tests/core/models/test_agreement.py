"""How far two models agree: pairs of boxes, and what is counted of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.models import agreement
from streamfleet_core.models.agreement import Box, FrameAgreement, compare, overlap, summarize


def box(left: float, label: str = "bolt", confidence: float = 0.9, side: float = 10) -> Box:
    """A square box at a place on one line."""
    return Box(left=left, top=0, right=left + side, bottom=side, label=label, confidence=confidence)


def test_the_overlap_is_the_common_share_of_both_areas() -> None:
    assert overlap(box(0), box(0)) == 1
    assert overlap(box(0), box(5)) == pytest.approx(1 / 3)
    assert overlap(box(0), box(10)) == 0
    assert overlap(box(0), Box(left=8, top=0, right=2, bottom=10, label="bolt", confidence=1)) == 0


def test_the_same_boxes_agree_entirely() -> None:
    boxes = [box(0), box(100, "nut", 0.4)]

    found = compare(boxes, boxes)
    total = summarize([found])

    assert not found.only_first
    assert not found.only_second
    assert found.disagreement == 0
    assert (total.matched_share, total.confirmed_share, total.class_agreement, total.f1) == (1, 1, 1, 1)
    assert (total.mean_shift, total.mean_iou, total.blind_frames) == (0, 1, 0)


def test_each_kind_of_disagreement_is_found() -> None:
    first = [box(0), box(100), box(200, "bolt", 0.8)]
    second = [box(1, "bolt", 0.7), box(101, "nut"), box(300, "nut", 0.5)]

    found = compare(first, second)
    total = summarize([found])

    assert [(pair.first, pair.second) for pair in found.pairs] == [
        (first[0], second[0]),
        (first[1], second[1]),
    ]
    assert [pair.same_class for pair in found.pairs] == [True, False]
    assert found.pairs[0].shift == pytest.approx(-0.2)
    assert found.other_class == (found.pairs[1],)
    assert (found.only_first, found.only_second) == ((first[2],), (second[2],))
    assert found.disagreement == pytest.approx(0.8 + 0.5 + 0.9 + 0.2)
    assert (total.first_boxes, total.second_boxes, total.matched, total.same_class) == (3, 3, 2, 1)
    assert total.matched_share == pytest.approx(2 / 3)
    assert total.class_agreement == 0.5
    assert total.f1 == pytest.approx(1 / 3)
    assert total.mean_shift == pytest.approx(-0.2)


def test_a_box_of_the_same_class_is_preferred_to_a_closer_one_of_another() -> None:
    first = [box(0, "nut"), box(1, "bolt", 0.5)]
    second = [box(0, "bolt"), box(1, "nut")]

    found = compare(first, second)

    assert [(pair.first.label, pair.second.label) for pair in found.pairs] == [
        ("nut", "nut"),
        ("bolt", "bolt"),
    ]


def test_the_surest_box_of_the_reference_chooses_first() -> None:
    unsure, sure, other = box(0, confidence=0.3), box(3, confidence=0.9), box(1)

    found = compare([unsure, sure], [other])

    assert [pair.first for pair in found.pairs] == [sure]
    assert found.only_first == (unsure,)


def test_a_pair_overlaps_by_at_least_the_limit() -> None:
    assert not compare([box(0)], [box(5)]).pairs
    assert compare([box(0)], [box(5)], min_iou=0.3).pairs


def test_a_frame_is_blind_where_only_the_second_model_finds_nothing() -> None:
    frames = [
        compare([box(0)], []),
        compare([], []),
        compare([], [box(0)]),
        compare([box(0)], [box(100)]),
        compare([box(0)], [box(0)]),
    ]

    assert [frame.blind for frame in frames] == [True, False, False, False, False]
    assert summarize(frames).blind_frames == 1


def test_a_share_of_nothing_is_none() -> None:
    total = summarize([FrameAgreement()])

    assert (total.frames, total.matched) == (1, 0)
    assert (total.matched_share, total.confirmed_share, total.class_agreement, total.f1) == (None,) * 4
    assert (total.mean_shift, total.mean_iou) == (None, None)


def test_of_too_many_boxes_the_surest_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "MAX_BOXES", 2)
    boxes = [box(100 * place, confidence=place / 10) for place in range(4)]

    found = compare(boxes, [])

    assert found.only_first == (boxes[3], boxes[2])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_box_is_made_of_finite_numbers(number: float) -> None:
    with pytest.raises(ValueError, match="expected finite"):
        box(number)
    with pytest.raises(ValueError, match="expected finite"):
        box(0, confidence=number)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
BOXES = st.lists(
    st.builds(
        Box,
        left=NUMBERS,
        top=NUMBERS,
        right=NUMBERS,
        bottom=NUMBERS,
        label=st.sampled_from("ab"),
        confidence=st.floats(0, 1),
    ),
    max_size=6,
)


@given(BOXES, BOXES)
def test_each_box_is_counted_once_whatever_its_numbers(first: list[Box], second: list[Box]) -> None:
    found = compare(first, second)
    total = summarize([found])

    firsts = [pair.first for pair in found.pairs] + list(found.only_first)
    seconds = [pair.second for pair in found.pairs] + list(found.only_second)
    assert sorted(map(id, firsts)) == sorted(map(id, first))
    assert sorted(map(id, seconds)) == sorted(map(id, second))
    assert all(0.5 <= pair.iou <= 1.000001 for pair in found.pairs)
    assert (total.first_boxes, total.second_boxes) == (len(first), len(second))
