"""Tracker ids in documents: each box has one or none has, whatever else the task of the model adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import supervision as sv

from streamfleet_worker.library.tracking import Tracking
from streamfleet_worker.video.frame import Stamp
from tests.fakes.findings import document as described
from tests.fakes.findings import found as boxes
from tests.fakes.findings import oriented, posed, segmented
from tests.fakes.found import BOX, CLASSIFIED, KEYPOINTS, ORIENTED, OUTLINED, RUN_LENGTHS, document


def stamp(frame_id: int) -> Stamp:
    """Of a frame of a film with ten of them a second."""
    at = frame_id / 10
    return Stamp(frame_id=frame_id, decoded_at=at, wall_ns=0, boot_ns=0, media_time=at, fps=10.0)


@pytest.mark.parametrize("found", [BOX, OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS], ids=str)
def test_an_object_keeps_its_id_and_all_that_was_found(found: dict[str, Any]) -> None:
    tracking = Tracking(confidence=0.3)
    other = {**found, "x": 50.0, "y": 40.0}
    whole = document({**found, "detection_id": "a"}, {**other, "detection_id": "b"})

    followed = [tracking.track(whole, 0, stamp(frame_id)) for frame_id in range(1, 6)]

    ids = [[each.get("tracker_id") for each in one["predictions"]] for one in followed]
    assert ids[-1] == ids[-2]
    assert None not in ids[-1]
    assert len(set(ids[-1])) == 2
    for each, given in zip(followed[-1]["predictions"], whole["predictions"], strict=True):
        assert {**each, "tracker_id": None} == {**given, "tracker_id": None}
        assert [*each][-2:] == ["tracker_id", "detection_id"]


def test_a_weak_object_is_followed_and_left_out() -> None:
    tracking = Tracking(confidence=0.3)
    weak = {**BOX, "confidence": 0.2}

    shown = [
        tracking.track(document(BOX if number in (1, 2, 25) else weak), 0, stamp(number))["predictions"]
        for number in range(1, 26)
    ]

    assert [len(each) for each in shown] == [1, 1, *[0] * 22, 1]
    assert [each["tracker_id"] for (each,) in filter(None, shown)] == [1, 1, 1]


@pytest.mark.parametrize("make", [boxes, segmented, posed, oriented])
def test_an_id_stands_before_the_detection_id_and_all_else_stays(make: Callable[..., sv.Detections]) -> None:
    tracking = Tracking(confidence=0.0)
    whole = described(make(3, size=80))

    first, second = (tracking.track(whole, 0, stamp(number)) for number in (1, 2))

    for before, after, again in zip(
        whole["predictions"], first["predictions"], second["predictions"], strict=True
    ):
        keys = list(before)
        keys.insert(keys.index("detection_id"), "tracker_id")
        assert list(after) == keys
        assert {key: after[key] for key in before} == before
        assert after["tracker_id"] == again["tracker_id"]


def test_the_classes_of_a_picture_are_left_as_they_are() -> None:
    whole = {**document(), **CLASSIFIED}

    assert Tracking(confidence=0.3).track(whole, 0, stamp(1)) == whole
