"""A sample as it arrives: what a device may send is bounded before anything is built of it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest

from streamfleet_core.datasets.picked_sample import MAX_PREDICTION, Picked
from streamfleet_core.protocol.limits import MAX_POINTS
from streamfleet_core.protocol.prediction import MAX_PREDICTIONS
from tests.fakes.found import BOX, CLASSIFIED, KEYPOINTS, ORIENTED, OUTLINED, RUN_LENGTHS, document, keypoint
from tests.fakes.samples import picked


def with_prediction(prediction: dict[str, Any]) -> bytes:
    document = msgspec.to_builtins(picked().sample)
    return msgspec.msgpack.encode({"sample": {**document, "prediction": prediction}, "image": b"x"})


def test_what_a_prediction_has_beyond_our_types_is_not_built() -> None:
    """A million empty maps are 1 MB on the wire, and were 64 MB in memory."""
    content = with_prediction({"predictions": [], "more": [{}] * 1_000_000})

    tracemalloc.start()
    try:
        arrived = Picked.decode(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert arrived.sample.prediction == {"predictions": []}
    assert peak < 100_000


def test_more_objects_than_a_frame_has_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="length"):
        Picked.decode(with_prediction({"predictions": [{}] * (MAX_PREDICTIONS + 1)}))


def test_more_than_a_prediction_needs_is_refused_before_it_is_built() -> None:
    """Points are small on the wire, and each is a dict in memory."""
    point = {"x": 1, "y": 1}
    objects = [{"points": [point] * MAX_POINTS}] * (MAX_PREDICTION // (7 * MAX_POINTS) + 1)
    content = with_prediction({"predictions": objects})

    tracemalloc.start()
    try:
        with pytest.raises(msgspec.ValidationError, match="a prediction of at most"):
            Picked.decode(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 100_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"predictions": [{**BOX, "points": [{"x": 1e7, "y": 0}]}]},
        {"predictions": [{**BOX, "keypoints": [keypoint(0, 1.0, -1e7)]}]},
        {"predictions": [{"class": "cat"}], "top": "cat"},
        {"predictions": [CLASSIFIED["predictions"][0]]},  # of a picture, but it does not say so
    ],
    ids=str,
)
def test_what_is_no_object_and_no_class_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        Picked.decode(with_prediction(wrong))


@pytest.mark.parametrize("found", [OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS], ids=str)
def test_objects_of_every_task_arrive_whole(found: dict[str, Any]) -> None:
    sample = Picked.decode(with_prediction(document(found))).sample

    assert sample.prediction == document(found)
    assert (len(sample.boxes), sample.classes) == (1, ())


def test_the_classes_of_a_picture_arrive_whole() -> None:
    sample = Picked.decode(with_prediction({**document(), **CLASSIFIED})).sample

    assert sample.prediction == {**document(), **CLASSIFIED}
    assert sample.boxes == ()
    assert [(each.class_name, each.confidence) for each in sample.classes] == [("cat", 0.75), ("dog", 0.25)]


def test_what_our_devices_write_arrives_whole() -> None:
    assert Picked.decode(picked().encode()) == picked()
