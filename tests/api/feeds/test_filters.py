"""What a subscriber may choose, by table: which messages it hears of, and how a wrong choice is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from streamfleet_api.feeds.filters import (
    Mark,
    PredictionFilter,
    PreviewFilter,
    Selector,
    StatusFilter,
    WrongParameter,
    read_after,
    read_limit,
    read_source,
)
from tests.fakes.found import CLASSIFIED, KEYPOINTS, ORIENTED, OUTLINED, RUN_LENGTHS
from tests.fakes.found import document as found_document

HALL = {"site": "hall-1", "line": ""}


def found(*objects: tuple[str, float]) -> list[dict[str, Any]]:
    """Predictions of these classes, with this confidence."""
    return [{"class": name, "confidence": confidence} for name, confidence in objects]


def document(*objects: tuple[str, float], device: str = "edge-1", source: int = 0) -> dict[str, Any]:
    """What comes of one frame."""
    return {
        "predictions": found(*objects),
        "inference_metadata": {"device": device, "source_id": source},
    }


@pytest.mark.parametrize(
    ("text", "labels", "meets"),
    [
        ("site=hall-1", HALL, True),
        ("site=hall-1,line", HALL, True),
        ("line, site", HALL, True),
        ("line=", HALL, True),
        ("site=hall-2", HALL, False),
        ("site=hall-1,door", HALL, False),
        ("site=", HALL, False),
        ("site", {}, False),
        ("site", None, False),
    ],
)
def test_a_selector_is_labels_that_must_all_be_there(
    text: str, labels: Mapping[str, str] | None, meets: bool
) -> None:
    assert Selector.parse(text).meets(labels) is meets


def test_no_selector_is_met_even_by_what_nobody_has_listed() -> None:
    assert Selector().meets(None)


@pytest.mark.parametrize(
    ("query", "concerned"),
    [
        ([], True),
        ([("pipeline", "door")], True),
        ([("pipeline", "gate"), ("pipeline", "door")], True),
        ([("pipeline", "gate")], False),
        ([("selector", "line")], True),
        ([("pipeline", "door"), ("selector", "site=hall-2")], False),
        ([("ticket", "x")], True),
    ],
)
def test_predictions_are_chosen_by_pipeline_and_labels(query: list[tuple[str, str]], concerned: bool) -> None:
    assert PredictionFilter.parse(query).concerns("door", HALL) is concerned


BOTH = (("car", 0.9), ("person", 0.4))


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ([], BOTH),
        ([("device", "edge-1")], BOTH),
        ([("device", "edge-2"), ("device", "edge-1")], BOTH),
        ([("device", "edge-2")], None),
        ([("source", "0"), ("source", "2")], BOTH),
        ([("source", "1")], None),
        ([("class", "car")], (("car", 0.9),)),
        ([("class", "car"), ("class", "person")], BOTH),
        ([("class", "dog")], None),
        ([("class", "dog"), ("empty", "true")], ()),
        ([("min_confidence", "0.5")], (("car", 0.9),)),
        ([("min_confidence", "0.4")], BOTH),
        ([("min_confidence", "0.95")], None),
        ([("class", "person"), ("min_confidence", "0.5")], None),
        ([("min_confidence", "0")], BOTH),
    ],
)
def test_of_a_prediction_what_was_chosen_is_left(
    query: list[tuple[str, str]], kept: tuple[tuple[str, float], ...] | None
) -> None:
    picked = PredictionFilter.parse(query).pick(document(*BOTH))

    assert picked == (None if kept is None else document(*kept))


@pytest.mark.parametrize("whole", [OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS], ids=str)
def test_objects_of_every_task_are_chosen_whole(whole: dict[str, Any]) -> None:
    chosen = PredictionFilter.parse([("class", "nut"), ("min_confidence", "0.75")])

    assert chosen.pick(found_document(whole, {**whole, "class": "bolt"})) == found_document(whole)


@pytest.mark.parametrize(
    ("query", "classes"),
    [
        ([("class", "dog")], ["dog"]),
        ([("min_confidence", "0.5")], ["cat"]),
        ([("class", "dog"), ("min_confidence", "0.5")], None),
    ],
)
def test_of_the_classes_of_a_picture_those_chosen_are_left_and_the_top_remains(
    query: list[tuple[str, str]], classes: list[str] | None
) -> None:
    picked = PredictionFilter.parse(query).pick({**found_document(), **CLASSIFIED})

    assert (None if picked is None else [one["class"] for one in picked["predictions"]]) == classes
    assert picked is None or (picked["top"], picked["confidence"]) == ("cat", 0.75)


def test_a_frame_in_which_nothing_was_found_comes_unless_something_is_asked_for() -> None:
    assert PredictionFilter.parse([]).pick(document()) == document()
    assert PredictionFilter.parse([("class", "car")]).pick(document()) is None
    assert PredictionFilter.parse([("class", "car"), ("empty", "true")]).pick(document()) == document()


def test_what_is_wanted_whole_is_not_copied() -> None:
    whole = document(*BOTH)

    assert PredictionFilter.parse([("class", "car"), ("class", "person")]).pick(whole) is whole


ANYTHING: list[Any] = [None, True, 7, -1, 0.5, float("nan"), "", "car", b"car", [], ["car"], {}, {"a": []}]


@pytest.mark.parametrize("odd", ANYTHING, ids=repr)
def test_what_is_no_prediction_is_no_reason_to_fail(odd: Any) -> None:
    documents: list[dict[str, Any]] = [
        {},
        {"predictions": odd, "inference_metadata": odd},
        {"predictions": [odd], "inference_metadata": {"device": odd, "source_id": odd}},
        {"predictions": [{"class": odd, "confidence": 0.5}, {"class": "car", "confidence": odd}, {}]},
    ]

    for document in documents:
        for query in [("class", "car"), ("min_confidence", "0.1"), ("device", "edge-1"), ("source", "1")]:
            picked = PredictionFilter.parse([query]).pick(document)
            assert picked is None or picked.keys() == document.keys()
        assert PredictionFilter.parse([]).pick(document) is document


@pytest.mark.parametrize(
    ("query", "pipeline", "device"),
    [
        ([], True, True),
        ([("pipeline", "door")], True, False),
        ([("pipeline", "gate")], False, False),
        ([("device", "edge-1")], True, True),
        ([("device", "edge-2")], False, False),
        ([("selector", "line")], True, False),
        ([("selector", "door")], False, False),
    ],
)
def test_statuses_are_chosen_by_pipeline_device_and_labels(
    query: list[tuple[str, str]], pipeline: bool, device: bool
) -> None:
    chosen = StatusFilter.parse(query)

    assert chosen.wants_pipeline("door", "edge-1", HALL) is pipeline
    assert chosen.wants_device("edge-1") is device


@pytest.mark.parametrize(
    ("query", "name", "expected"),
    [
        ([("pipeline", "a b")], "pipeline", "letters"),
        ([("device", "../x")], "device", "letters"),
        ([("pipeline", "")], "pipeline", "letters"),
        ([("min_confidence", "high")], "min_confidence", "a number from 0 to 1"),
        ([("min_confidence", "nan")], "min_confidence", "a number from 0 to 1"),
        ([("min_confidence", "1.1")], "min_confidence", "a number from 0 to 1"),
        ([("source", "-1")], "source", "a number from 0 to 15"),
        ([("source", "16")], "source", "a number from 0 to 15"),
        ([("source", "²")], "source", "a number from 0 to 15"),
        ([("source", "9" * 5000)], "source", "a number from 0 to 15"),
        ([("selector", "a=b=c")], "selector", "key=value"),
        ([("selector", ",")], "selector", "key=value"),
        ([("selector", ",".join("a" for _ in range(33)))], "selector", "key, at most 32, with"),
        ([("selector", "a"), ("selector", "b")], "selector", "one value"),
        ([("empty", "yes")], "empty", "true or false"),
        ([("pipline", "door")], "pipline", "class, device, empty"),
        ([("pipeline", "door")] * 65, "pipeline", "at most 64"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_with_what_was_expected(
    query: list[tuple[str, str]], name: str, expected: str
) -> None:
    with pytest.raises(WrongParameter, match=expected) as caught:
        PredictionFilter.parse(query)

    assert caught.value.name == name


@pytest.mark.parametrize(
    ("query", "header", "after"),
    [
        ([], None, None),
        ([("after", "7-3")], None, Mark(7, 3)),
        ([("after", "7-3")], "7-9", Mark(7, 9)),
        ([], "7-9", Mark(7, 9)),
        ([("after", "")], "", None),
    ],
)
def test_where_a_browser_was_when_it_lost_us_is_later_than_its_address(
    query: list[tuple[str, str]], header: str | None, after: Mark | None
) -> None:
    assert read_after(query, header) == after


@pytest.mark.parametrize("text", ["7", "7-", "-3", "a-b", "7-3-1", "7--3", f"{2**63}-1", "9" * 5000 + "-1"])
def test_what_is_no_mark_of_an_event_is_refused(text: str) -> None:
    with pytest.raises(WrongParameter, match="EPOCH-N"):
        read_after([("after", text)], None)


def test_one_source_and_a_limit_are_read() -> None:
    assert read_source([]) is None
    assert read_source([("source", "3")]) == 3
    assert PreviewFilter.parse("door", []) == PreviewFilter("door", 0)
    assert PreviewFilter.parse("door", [("source", "2")]) == PreviewFilter("door", 2)
    assert read_limit([], default=100, most=2000) == 100
    with pytest.raises(WrongParameter, match="from 1 to 2000"):
        read_limit([("limit", "2001")], default=100, most=2000)
