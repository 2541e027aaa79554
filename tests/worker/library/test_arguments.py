"""What the arguments of a pipeline mean, without a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamfleet_core.protocol.values import Motion, SourceSpec
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.library.arguments import (
    inference_of,
    plans_of,
    rules_of,
    sinks_of,
    source_numbers,
    tracking_of,
)
from streamfleet_worker.library.errors import StreamOperationNotAllowedError
from streamfleet_worker.library.execution.frame_batches import SourcePlan
from streamfleet_worker.library.settings import Settings


def test_a_rule_that_is_not_given_is_the_default() -> None:
    defaults = PostProcessing(confidence=0.2, iou_threshold=0.6)

    rules = rules_of(defaults, confidence=0.5, iou_threshold=None)

    assert rules == PostProcessing(confidence=0.5, iou_threshold=0.6)


def test_one_source_is_a_list_of_one() -> None:
    alone, listed = (
        plans_of(given, settings=Settings()) for given in ("rtsp://camera/1", ["rtsp://camera/1"])
    )

    assert alone == listed == [SourcePlan(SourceSpec("rtsp://camera/1"), buffer_size=None, native=False)]


def test_what_is_given_once_is_given_to_each_source() -> None:
    plans = plans_of(
        [0, "/videos/door.mp4"],
        settings=Settings(buffer_size=7, strides=True),
        max_fps=5.0,
        filling="drop_oldest",
        properties={"frame_width": 480.0},
        decoder="NV",
    )

    assert [plan.spec.reference for plan in plans] == [0, "/videos/door.mp4"]
    for plan in plans:
        assert plan.spec.decoder == "nv"
        assert (plan.spec.max_fps, plan.spec.filling) == (5.0, "DROP_OLDEST")
        assert plan.spec.properties == {"frame_width": 480.0}
        assert (plan.buffer_size, plan.strides) == (7, True)


HALF = [[0, 0], [1, 0], [1, 0.5]]
UPPER = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5))


@pytest.mark.parametrize(
    ("given", "of_each"),
    [
        ({"classes": ["bolt", "nut"]}, [{"classes": ("bolt", "nut")}] * 2),
        ({"classes": [None, ["nut"]]}, [{"classes": None}, {"classes": ("nut",)}]),
        ({"region": HALF}, [{"region": UPPER}] * 2),
        ({"region": [HALF, None]}, [{"region": UPPER}, {"region": None}]),
        ({"motion": True}, [{"motion": Motion()}] * 2),
        ({"motion": {"max_still": 3}}, [{"motion": Motion(max_still=3.0)}] * 2),
        ({"motion": [False, {"sensitivity": 1}]}, [{"motion": None}, {"motion": Motion(sensitivity=1.0)}]),
    ],
)
def test_what_is_kept_is_given_for_all_sources_or_for_each(
    given: dict[str, Any], of_each: list[dict[str, Any]]
) -> None:
    plans = plans_of([0, 1], settings=Settings(), **given)

    assert [plan.spec for plan in plans] == [
        SourceSpec(number, **fields) for number, fields in enumerate(of_each)
    ]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"classes": []}, "classes: expected names of classes"),
        ({"classes": [["nut"]]}, "classes: expected a list for 2 sources, got one for 1"),
        ({"region": HALF[:2]}, "region: expected a polygon of 3 to 32 corners"),
        ({"region": [*HALF, [0, 2]]}, r"region: expected a polygon .*<= 1"),
        ({"motion": {"max_still": 0}}, "motion: expected True, or sensitivity and max_still"),
        ({"motion": {"still": 3}}, "got 'still'"),
        ({"motion": 0.5}, "motion: expected True"),
    ],
)
def test_what_cannot_be_kept_is_an_error(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        plans_of([0, 1], settings=Settings(), **given)


def test_classes_need_a_model_whose_classes_are_known() -> None:
    sources = [SourceSpec(0, classes=("nut",))]

    with pytest.raises(ValueError, match="expected a model by its id or path"):
        inference_of(lambda _: {}, PostProcessing(), settings=Settings(), sources=sources)


def test_a_path_is_a_file_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    (plan,) = plans_of(Path("0"), settings=Settings())

    assert plan.spec.reference == str(tmp_path / "0")


@pytest.mark.parametrize(
    ("mode", "given", "policy"),
    [
        ("auto", {}, (None, None)),
        ("every_frame", {}, ("WAIT", "LAZY")),
        ("EVERY_FRAME", {"consumption": "eager"}, ("WAIT", "EAGER")),
        ("freshest", {}, (None, None)),
    ],
)
def test_a_mode_chooses_the_strategies_that_are_not_given(
    mode: str, given: dict[str, Any], policy: tuple[str | None, str | None]
) -> None:
    (plan,) = plans_of(0, settings=Settings(), mode=mode, **given)

    assert (plan.spec.filling, plan.spec.consumption) == policy
    assert plan.native is (mode == "freshest")


def test_a_models_own_boxes_are_tracked_whatever_their_confidence() -> None:
    rules = PostProcessing(confidence=0.7)

    assert tracking_of(None, "yolo11n/1", rules) is None
    assert tracking_of("ByteTrack", "yolo11n/1", rules) is not None


def test_a_sink_is_a_function_or_a_list_of_them() -> None:
    assert (sinks_of(None), sinks_of(print), sinks_of((print, format))) == ((), [print], [print, format])


@pytest.mark.parametrize(("given", "numbers"), [(None, [0, 1, 2]), (2, [2]), ("2", [2])])
def test_a_source_is_named_by_its_number_and_all_by_none(given: int | str | None, numbers: list[int]) -> None:
    assert list(source_numbers(given, count=3)) == numbers


@pytest.mark.parametrize("given", [3, -1, "3", "door"])
def test_a_source_that_is_not_there_is_refused(given: int | str) -> None:
    with pytest.raises(StreamOperationNotAllowedError, match="the number of a source from 0 to 2"):
        source_numbers(given, count=3)
