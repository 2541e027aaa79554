"""The bytes of both planes: what goes in comes out, and nothing that is not ours comes in."""

from __future__ import annotations

import contextlib

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.protocol.control import MAX_BODY, Envelope, decode, encode
from streamfleet_broker.protocol.data import (
    DataHeader,
    Flag,
    Kind,
    device_topic,
    kind_of,
    pipeline_topic,
    split,
)
from streamfleet_broker.protocol.errors import BadData, BadMessage, BadToken
from streamfleet_broker.protocol.messages import Ack, Beat, Desired, Hello, Refused, Reply
from streamfleet_broker.protocol.requests import (
    CreatePipeline,
    DeviceView,
    Events,
    FleetEvent,
    GetDevice,
    GetEvents,
    GetPipeline,
    LabelDevice,
    OperatorRequest,
    PipelineView,
    Put,
    PutPipeline,
    RemoveDevice,
    RemoveModel,
    RestartPipeline,
    pack_request,
    unpack_request,
)
from streamfleet_broker.protocol.tokens import JoinToken
from streamfleet_broker.protocol.values import (
    Manifest,
    ModelRef,
    Observed,
    ObservedState,
    PipelineSpec,
    SourceSpec,
    UdpSink,
    Weights,
    Wish,
    from_plain,
    observed_digest,
)

SPEC = PipelineSpec(
    ModelRef("parts/1", "ab" * 32),
    (SourceSpec("rtsp://10.0.0.9/door", {"fps": 10.0}),),
    (UdpSink("127.0.0.1", 12000),),
    confidence=0.3,
)
WISH = Wish("door", 7, 3, "pause", "stop", SPEC)
OBSERVED = Observed("door", 7, 2, ObservedState.RUNNING)


@pytest.mark.parametrize(
    "message",
    [
        Hello("cam-7", b"b" * 16, "0.1.0", 4, 9, "tcp://10.0.0.7:7780", (OBSERVED,)),
        Beat(1, 2, 3, 4, None),
        Beat(1, 2, 3, 2**64 - 1, (OBSERVED,)),
        Ack(1, 3),
        Desired(3, (WISH,)),
        Refused("stale_session", "hello first"),
        pack_request(GetPipeline("door")),
    ],
)
def test_a_message_is_read_as_it_was_written(message: object) -> None:
    envelope = Envelope(message, 5, b"s" * 16, 17, b"r" * 16)  # type: ignore[arg-type]

    assert decode(encode(envelope)) == envelope


@pytest.mark.parametrize(
    "request_",
    [
        CreatePipeline("door", SPEC, "cam-7"),
        CreatePipeline("door", SPEC, None, {"site": "hall-1"}, {"line": "2"}, "pause", "key", "digest"),
        PutPipeline("door", SPEC, None, {"site": "hall-1"}, {"line": "2"}, "pause", 3, 5000),
        RestartPipeline("door"),
        GetDevice("cam-7"),
        LabelDevice("cam-7", {"site": "hall-1"}),
        RemoveDevice("cam-7"),
        RemoveModel("parts/1"),
        GetEvents(7, 41, 5000),
    ],
)
def test_a_request_is_read_as_it_was_written(request_: OperatorRequest) -> None:
    assert unpack_request(pack_request(request_)) == request_


@pytest.mark.parametrize(
    "data",
    [
        Put(PipelineView("door", 7, "run", "moving", "cam-7", False, SPEC, version=3), False, True, False),
        Events(7, (FleetEvent(41, 1.5e9, "pipeline", "door", "gone", "stopping", "cam-7"),), lost=True),
        DeviceView("cam-7", "ready", 4, 1, "0.1.0", 0.5, {"site": "hall-1"}),
    ],
)
def test_the_data_of_a_reply_is_read_as_it_was_written(data: Put | Events | DeviceView) -> None:
    message = decode(encode(Envelope(Reply(data)))).message

    assert isinstance(message, Reply)
    assert from_plain(message.data, type(data)) == data


@pytest.mark.parametrize("labels", [{"": "x"}, {"a b": "x"}, {"a": "x,y"}, {"a": "x" * 64}, {"../x": "y"}])
def test_a_label_is_a_word(labels: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        unpack_request(pack_request(LabelDevice("cam-7", labels)))


def test_a_newer_peer_is_understood() -> None:
    header, request_id, _ = encode(Envelope(Ack(1, 3)))
    body = msgpack.packb({"n": 1, "desired_rev": 3, "from_the_future": [1, 2]})

    assert decode([header, request_id, body]).message == Ack(1, 3)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (msgpack.packb({"n": -1, "desired_rev": 3}), "a Ack"),
        (msgpack.packb({"n": 1}), "a Ack"),
        (msgpack.packb([1, 2]), "a map in Ack"),
        (msgpack.packb({1: 2}), "msgpack"),
        (msgpack.packb({"n": msgpack.ExtType(4, b"x")}), "plain msgpack"),
        (b"\xdd\xff\xff\xff\xff", "msgpack"),
        (b"\x91" * 60_000, "msgpack"),
        (b"", "msgpack"),
        (msgpack.packb({"n": 1, "desired_rev": 3}) + b"x", "msgpack"),
        (b"x" * (MAX_BODY + 1), f"a body of at most {MAX_BODY} bytes"),
    ],
)
def test_a_wrong_body_is_refused_with_what_was_expected(body: bytes, expected: str) -> None:
    header, request_id, _ = encode(Envelope(Ack(1, 3)))

    with pytest.raises(BadMessage) as caught:
        decode([header, request_id, body])

    assert caught.value.expected == expected


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_no_bytes_raise_anything_but_bad_message(frames: list[bytes]) -> None:
    with contextlib.suppress(BadMessage):
        decode(frames)


@given(st.data())
def test_every_flipped_bit_is_read_or_refused(data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in encode(Envelope(Desired(3, (WISH,)), 5, b"s" * 16, 17))]
    frame = data.draw(st.sampled_from([0, 2]))
    position = data.draw(st.integers(0, len(frames[frame]) * 8 - 1))
    frames[frame][position // 8] ^= 1 << (position % 8)

    with contextlib.suppress(BadMessage):
        decode([bytes(frame) for frame in frames])


def test_a_header_orders_and_dates_a_prediction() -> None:
    header = DataHeader(Kind.PRED, 7, 2, 41, 3, 10**18, 10**12, 1, Flag.TRUNCATED)

    assert len(header.pack()) == 48
    assert DataHeader.unpack(header.pack()) == header
    assert header.key < DataHeader(Kind.PRED, 7, 3, 0).key


def test_a_topic_matches_no_other_pipeline_as_a_prefix() -> None:
    assert pipeline_topic(Kind.PRED, "p1") == b"v1/pred/p1/"
    assert not pipeline_topic(Kind.PRED, "p10").startswith(pipeline_topic(Kind.PRED, "p1"))
    assert device_topic("cam-7") == b"v1/stat/@cam-7/"


def test_data_frames_are_split_into_subject_header_and_body() -> None:
    header = DataHeader(Kind.STAT, 1, 0, 0)

    assert split([device_topic("cam-7"), header.pack(), b"\x80"]) == ("@cam-7", header, b"\x80")


@pytest.mark.parametrize(
    "frames", [[], [b"v1/pred/a/", b"", b""], [b"v2/pred/a/", b"", b""], [b"v1/pred/a", b"", b""]]
)
def test_wrong_data_frames_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(BadData):
        split(frames)
    with pytest.raises(BadData):
        kind_of(frames)


@pytest.mark.parametrize("kind", Kind)
def test_the_kind_of_data_frames_is_told_without_the_rest(kind: Kind) -> None:
    assert kind_of([device_topic("cam-7"), DataHeader(kind, 1, 0, 0).pack(), b"\x80"]) is kind


@pytest.mark.parametrize(
    "header",
    [
        b"",
        DataHeader(Kind.PRED, 1, 0, 0).pack()[:-1],
        DataHeader(Kind.PRED, 1, 0, 0).pack() + b"x",
        b"SX" + DataHeader(Kind.PRED, 1, 0, 0).pack()[2:],
        b"SD\x02" + DataHeader(Kind.PRED, 1, 0, 0).pack()[3:],
        b"SD\x01\x09" + DataHeader(Kind.PRED, 1, 0, 0).pack()[4:],
    ],
)
def test_a_header_that_is_none_of_ours_has_no_kind(header: bytes) -> None:
    frames = [device_topic("cam-7"), header, b"\x80"]

    with pytest.raises(BadData):
        kind_of(frames)
    with pytest.raises(BadData):
        split(frames)


def test_equal_observations_have_equal_digests_in_any_order() -> None:
    other = Observed("gate", 1, 0, ObservedState.FAILED, "no such model")

    assert observed_digest((OBSERVED, other)) == observed_digest((other, OBSERVED))
    assert observed_digest((OBSERVED,)) != observed_digest((OBSERVED, other))


def test_equal_manifests_have_equal_digests() -> None:
    manifest = Manifest("yolox", ("person",), 416, 416, Weights("cd" * 32, 100))

    assert Manifest.decode(manifest.encode()) == manifest
    assert Manifest.decode(manifest.encode()).digest == manifest.digest


TOKEN = JoinToken("cam-7", ("tcp://10.0.0.1:7771",), "k" * 40, "s" * 40)


def test_a_token_is_one_line_that_is_read_as_it_was_written() -> None:
    line = TOKEN.encode()

    assert line.startswith("sf1.")
    assert len(line.split()) == 1
    assert JoinToken.decode(f"  {line}\n") == TOKEN


@pytest.mark.parametrize(
    "line", ["", "K10abc", TOKEN.encode()[:-3], TOKEN.encode()[:20] + "!" + TOKEN.encode()[21:]]
)
def test_a_cut_or_mistyped_token_says_so(line: str) -> None:
    with pytest.raises(BadToken, match="not a join token"):
        JoinToken.decode(line)
