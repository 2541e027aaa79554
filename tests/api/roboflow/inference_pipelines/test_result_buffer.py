"""What waits for a consumer: in order, a place for each source, and never more than there is room for."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from streamfleet_api.roboflow.inference_pipelines.result_buffer import WAIT, Result, Ring, Rings
from streamfleet_api.roboflow.inference_pipelines.results import Consumed, Plan, consumed
from streamfleet_core.protocol.workflow import Output
from tests.fakes.found import CLASSIFIED, KEYPOINTS, ORIENTED, OUTLINED, RUN_LENGTHS


def result(seq: int, source: int = 0, **document: Any) -> Result:
    """One frame with one object."""
    content = {
        "image": {"width": 640, "height": 480},
        "predictions": [{"class": "car", "x": 1.0}, {"class": "bus", "x": 2.0}],
        "inference_metadata": {"frame_id": seq + 1, "source_id": source},
        **document,
    }
    return Result(source, (3, 0, seq), 0.0, msgpack.packb(content))


def taken(ring: Ring, now: float) -> list[list[int | None]]:
    """All entries that can be taken now, as the number of each place's result."""
    entries = []
    while (entry := ring.pop(now)) is not None:
        entries.append([None if each is None else each.key[2] for each in entry])
    return entries


def test_the_oldest_is_taken_first_and_dropped_first() -> None:
    ring = Ring(1, size=3)

    for seq in range(5):
        ring.push(result(seq), now=seq)

    assert len(ring) == 3
    assert taken(ring, now=5) == [[2], [3], [4]]
    assert (ring.take_dropped(), ring.take_dropped()) == (2, 0)
    assert (len(ring), ring.bytes) == (0, 0)


def test_an_entry_has_a_place_for_each_source() -> None:
    ring = Ring(2, size=8)

    for seq, source in enumerate([1, 0, 0, 0, 1]):
        ring.push(result(seq, source), now=0)

    assert taken(ring, now=0) == [[1, 0], [2, None], [3, 4]]


def test_an_entry_waits_for_the_other_sources_no_longer_than_it_may() -> None:
    ring = Ring(2, size=8)

    ring.push(result(0, 0), now=10)

    assert taken(ring, now=10 + WAIT - 0.1) == []
    assert taken(ring, now=10 + WAIT) == [[0, None]]


def test_what_comes_too_late_for_an_entry_begins_the_next() -> None:
    ring = Ring(2, size=8, wait=0.5)

    ring.push(result(0, 0), now=1)
    ring.push(result(1, 1), now=2)

    assert taken(ring, now=2) == [[0, None]]
    assert taken(ring, now=2.5) == [[None, 1]]


def test_a_pipeline_that_gets_more_sources_has_more_places() -> None:
    ring = Ring(1, size=8)

    ring.push(result(0, 0), now=0)
    ring.push(result(1, 2), now=0)

    assert taken(ring, now=WAIT) == [[0], [None, None, 1]]


def test_bytes_are_those_of_what_waits_and_all_can_be_dropped() -> None:
    ring = Ring(2, size=8)

    for seq in range(3):
        ring.push(result(seq, seq % 2), now=0)
    assert ring.bytes == sum(result(seq, seq % 2).size for seq in range(3))
    ring.drop_oldest()
    ring.drop_oldest()

    assert (ring.bytes, len(ring), ring.take_dropped()) == (0, 0, 2)


def test_all_rings_together_have_room_for_so_many_bytes() -> None:
    one = result(0).size
    rings = Rings(limit=6 * one, each=4 * one)
    for name in ("a", "b"):
        rings.begin(name, Ring(1, size=100))

    for seq in range(5):
        rings.push("a", result(seq), now=0)
    for seq in range(3):
        rings.push("b", result(seq), now=0)

    assert rings.bytes == 6 * one
    first, second = rings.pop("a", now=0), rings.pop("b", now=0)
    assert first is not None
    assert second is not None
    assert [(entry[0].key[2], dropped) for entry, dropped in (first, second) if entry[0]] == [(2, 2), (0, 0)]


def test_a_ring_that_ends_lets_go_of_what_waits() -> None:
    rings = Rings()
    rings.begin("a", Ring(1, size=100))
    rings.push("a", result(0), now=0)

    rings.begin("a", Ring(1, size=100))

    assert (rings.bytes, rings.pop("a", now=0)) == (0, None)
    rings.end("a")
    rings.end("a")


# what a consumer gets -------------------------------------------------------------------------------------


def test_outputs_have_their_names_and_frames_say_which_they_are_of() -> None:
    plan = Plan(
        model_id="parts/1", sources=2, outputs=(Output("found", "predictions"), Output("id", "inference_id"))
    )
    image = {"width": 640, "height": 480}

    got = consumed(plan, (result(4), None), 7, excluded=())

    found = {"image": image, "predictions": [{"class": "car", "x": 1.0}, {"class": "bus", "x": 2.0}]}
    assert got.outputs == [{"found": found, "id": "3-0-4"}, None]
    assert got.frames_metadata[1] is None
    assert got.frames_metadata[0] is not None
    assert (got.frames_metadata[0]["frame_id"], got.frames_metadata[0]["source_id"]) == (5, 0)
    assert got.dropped == 7


def test_what_is_excluded_is_left_out_and_nothing_else() -> None:
    plan = Plan(
        model_id="parts/1", sources=1, outputs=(Output("found", "predictions"), Output("id", "inference_id"))
    )

    assert consumed(plan, (result(4),), 0, excluded=["found", "other"]).outputs == [{"id": "3-0-4"}]
    assert consumed(plan, (result(4),), 0, excluded=["found", "id"]).outputs == [{}]


def test_a_step_can_be_an_output_as_a_whole() -> None:
    plan = Plan(
        model_id="parts/1",
        sources=1,
        outputs=(Output("a", "detection"), Output("b", "tracking"), Output("c", "model_id")),
        classes=("bus",),
    )

    found = {"image": {"width": 640, "height": 480}, "predictions": [{"class": "bus", "x": 2.0}]}
    assert consumed(plan, (result(4),), 0, excluded=()).outputs == [
        {
            "a": {"inference_id": "3-0-4", "model_id": "parts/1", "predictions": found},
            "b": {"tracked_detections": found},
            "c": "parts/1",
        }
    ]


def test_a_picture_is_the_newest_of_its_source_or_null() -> None:
    plan = Plan(model_id="parts/1", sources=2, outputs=(Output("drawn", "picture"),))

    got = consumed(plan, (result(4), result(5, 1)), 0, excluded=(), pictures={1: b"jpeg"})

    assert got.outputs == [{"drawn": None}, {"drawn": {"type": "base64", "value": "anBlZw=="}}]
    assert plan.needs_pictures([])
    assert not plan.needs_pictures(["drawn"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb(1),
        msgpack.packb([]),
        msgpack.packb({}),
        result(0, image=b"raw").body,
        result(0, predictions=[1]).body,
        result(0, predictions=[{"class": "car", "x": float("nan")}]).body,
        result(0, inference_metadata=None).body,
        result(0, inference_metadata={"frame_id": "1"}).body,
    ],
)
def test_a_result_that_cannot_be_read_leaves_its_place_empty(body: bytes) -> None:
    plan = Plan(model_id="parts/1", sources=1, classes=("car",))

    assert consumed(plan, (Result(0, (1, 0, 0), 0.0, body),), 0, excluded=()) == Consumed([None], [None])


def test_the_class_of_a_picture_keeps_what_says_that_it_is_one() -> None:
    plan = Plan(model_id="parts/1", sources=1, classes=("dog",))

    got = consumed(plan, (result(4, **CLASSIFIED),), 0, excluded=())

    image, (_, dog) = {"width": 640, "height": 480}, CLASSIFIED["predictions"]
    assert got.outputs == [
        {"predictions": {"image": image, "predictions": [dog], "top": "cat", "confidence": 0.75}}
    ]


@pytest.mark.parametrize("found", [OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS], ids=str)
def test_an_object_of_any_task_is_given_whole(found: dict[str, Any]) -> None:
    plan = Plan(model_id="parts/1", sources=1)

    got = consumed(plan, (result(4, predictions=[found]),), 0, excluded=())

    assert got.outputs == [{"predictions": {"image": {"width": 640, "height": 480}, "predictions": [found]}}]
