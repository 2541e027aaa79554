"""Mutated messages at every decoder that reads what a peer sends: an error of its own, and no other. (S33)"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfleet_api.feeds.statuses import Board
from streamfleet_api.web.json_codec import BadJson, parse, parse_leniently, parse_strictly
from streamfleet_core.datasets.coco import Coco
from streamfleet_core.datasets.picked_sample import Picked
from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.data_plane import DataHeader, Kind, device_topic, pipeline_topic, split
from streamfleet_core.protocol.errors import BadData, BadMessage, ProtocolError
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import Bye, Enrol, Heartbeat, Hello, Request
from streamfleet_core.protocol.prediction import decode as decode_prediction
from streamfleet_core.protocol.requests import OPERATIONS, unpack_request
from streamfleet_core.protocol.values import Observed, ObservedState, to_plain
from tests.api.monitoring.test_metrics import MACHINE
from tests.api.roboflow.test_stream_management import told
from tests.fakes.found import KEYPOINTS, ORIENTED, OUTLINED, RUN_LENGTHS, document
from tests.fakes.samples import picked

OBSERVED = (
    Observed(pipeline_id="door", generation=1, incarnation=1, state=ObservedState.RUNNING, reason="a reason"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.sampled_from(["", "\x00", "\u202e\n", "x" * 5000, "1e5", "\U0010ffff", "../.."]),
    st.binary(max_size=20),
)
ODD = st.recursive(
    SCALARS,
    lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(max_size=9), of, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> bytes:
    """A document with one odd value somewhere in it, or with odd bytes."""
    path: list[Any] = []
    at = document
    while isinstance(at, dict | list | tuple) and at and draw(st.integers(0, 4)):
        path.append(draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at)))))
        at = at[path[-1]]
    content = bytearray(msgspec.msgpack.encode(_with(document, path, draw(ODD))))
    for _ in range(draw(st.integers(0, 2))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(
        content[: draw(st.integers(len(content) // 2, len(content)))] if draw(st.booleans()) else content
    )


def _with(document: Any, path: list[Any], value: Any) -> Any:
    if not path:
        return value
    if isinstance(document, dict):
        return {**document, path[0]: _with(document[path[0]], path[1:], value)}
    return [_with(each, path[1:], value) if n == path[0] else each for n, each in enumerate(document)]


def plain(value: object) -> Any:
    return to_plain(value)


PREDICTION = {
    "image": {"width": 1, "height": 1},
    "predictions": [{"x": 1.5, "class": "a"}, OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS],
    "top": "a",
    "confidence": 0.5,
    "inference_metadata": {"pipeline_id": "door", "source_id": 0, "frame_id": 1},
}


def control(message: Any) -> Callable[[bytes], object]:
    header, request_id, _ = encode(Envelope(message))
    return lambda body: decode([header, request_id, body])


def a_status(topic: bytes) -> Callable[[bytes], object]:
    header = DataHeader(kind=Kind.STAT, gen=3, inc=0, seq=1).pack()

    def read(body: bytes) -> object:
        board = Board(on_unreadable=_raised)
        subject = board.receive([topic, header, body], 0.0)
        return None if subject is None else board.news(subject)

    return read


def _raised(error: BadData) -> None:
    raise error


def a_request(body: bytes) -> object:
    header, request_id, _ = encode(Envelope(Request("fleet.get")))
    message = decode([header, request_id, body]).message
    assert isinstance(message, Request)
    return [unpack_request(Request(op, message.args)) for op in OPERATIONS]


def a_sample(body: bytes) -> object:
    """As it is kept, and as it is exported."""
    sample = Picked.decode(body).sample
    return json.loads(msgspec.json.encode((sample, Coco().add(sample))))


HELLO, HEARTBEAT = (
    Hello(device="cam-7", boot=b"b" * 16, agent="0.1.0", capacity=4, observed=OBSERVED),
    Heartbeat(1, 0, 0, OBSERVED),
)
FULL_SAMPLE = picked(prediction=document(OUTLINED, RUN_LENGTHS, ORIENTED, KEYPOINTS))
DECODERS: dict[str, tuple[Any, Callable[[bytes], object], tuple[type[Exception], ...]]] = {
    "hello": (plain(HELLO), control(HELLO), (BadMessage,)),
    "heartbeat": (plain(HEARTBEAT), control(HEARTBEAT), (BadMessage,)),
    "bye": (plain(Bye("stop")), control(Bye("stop")), (BadMessage,)),
    "enrol": (plain(Enrol("k" * 40)), control(Enrol("k" * 40)), (BadMessage,)),
    "request": (
        {
            "op": "x",
            "args": {"pipeline_id": "p", "device": "d", "desired_status": "run", "spec": {"sources": [{}]}},
        },
        a_request,
        (BadMessage, msgspec.ValidationError),
    ),
    "pipeline": (plain(told("door", 1.0)), a_status(pipeline_topic(Kind.STAT, "door")), (BadData,)),
    "device": (plain(MACHINE), a_status(device_topic("edge-1")), (BadData,)),
    "prediction": (PREDICTION, decode_prediction, (BadData,)),
    "sample": (plain(FULL_SAMPLE), a_sample, (msgspec.MsgspecError, TypeError, ValueError, RecursionError)),
}


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_is_wrong_with_a_message_is_said_by_its_own_error(name: str, data: st.DataObject) -> None:
    document, decoder, errors = DECODERS[name]
    body = data.draw(mutated(document))

    with contextlib.suppress(*errors):
        assert finite(to_plain(decoder(body)))


def finite(value: Any) -> bool:
    """Has it no number that JSON cannot say?"""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 60_000,
        b"\x81\xa1a" * 20_000,
        b"\x81\xa8observed\xdc\xff\x00" + b"\x80" * 60_000,
        b"\x81\xabpredictions\xdc\xff\x00" + b"\x80" * 60_000,
        b"\x81\xa4args\xdc\xff\x00" + b"\x80" * 60_000,
        b"\xc7\x05\x01hello",
    ],
    ids=["array", "map", "bin", "arrays", "maps", "observed", "predictions", "args", "extension"],
)
def test_a_bomb_is_refused_at_once(name: str, bomb: bytes) -> None:
    _, decoder, errors = DECODERS[name]

    def seconds() -> float:
        """Of the processor; a virtual machine that stands still may count that, too."""
        began = time.thread_time()
        with pytest.raises(errors):
            decoder(bomb)
        return time.thread_time() - began

    assert any(seconds() < 0.5 for _ in range(3))


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_frames_are_split_or_refused(frames: list[bytes]) -> None:
    with contextlib.suppress(BadData):
        split(frames)


@given(st.text() | st.binary().map(lambda content: "sf1." + content.hex()))
def test_any_text_is_a_token_or_none(text: str) -> None:
    with contextlib.suppress(ProtocolError, msgspec.ValidationError):
        JoinToken.decode(text)


@given(st.binary(max_size=300) | ODD.map(lambda value: json.dumps(value, default=str).encode()))
def test_any_body_is_json_or_refused(body: bytes) -> None:
    for reader in (parse, parse_strictly, parse_leniently):
        with contextlib.suppress(BadJson):
            value = reader(body)
            if reader is not parse_leniently:
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
