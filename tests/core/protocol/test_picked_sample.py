"""A sample as it arrives: what a device may send is bounded before anything is built of it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest

from streamfleet_core.protocol.picked_sample import Picked
from streamfleet_core.protocol.prediction import MAX_PREDICTIONS
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


def test_what_our_devices_write_arrives_whole() -> None:
    assert Picked.decode(picked().encode()) == picked()
