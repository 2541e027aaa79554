"""The bytes of both planes: what goes in comes out, and nothing that is not ours comes in."""

from __future__ import annotations

import base64
import contextlib
import zlib
from dataclasses import replace

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.data_plane import (
    DataHeader,
    Flag,
    Kind,
    device_topic,
    kind_of,
    pipeline_topic,
    split,
)
from streamfleet_core.protocol.errors import BadData, BadMessage, BadToken
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY
from streamfleet_core.protocol.messages import Desired, Heartbeat, HeartbeatAck, Hello, Refused, Reply
from streamfleet_core.protocol.requests import (
    ChangePipelines,
    CreatePipeline,
    DeviceView,
    Events,
    FleetEvent,
    GetDevice,
    GetEvents,
    GetPipeline,
    LabelDevice,
    ListSubscribers,
    OperatorRequest,
    Outcome,
    PipelineView,
    Put,
    PutPipeline,
    RemoveDevice,
    RemoveModel,
    RemoveSubscriber,
    RestartPipeline,
    pack_request,
    unpack_request,
)
from streamfleet_core.protocol.values import (
    Assignment,
    Manifest,
    ModelRef,
    Observed,
    ObservedState,
    PipelineSpec,
    SourceSpec,
    UdpSink,
    Variant,
    Weights,
    from_plain,
    observed_digest,
    to_plain,
)

SPEC = PipelineSpec(
    model=ModelRef("parts/1", "ab" * 32),
    sources=(SourceSpec("rtsp://10.0.0.9/door", properties={"fps": 10.0}),),
    sinks=(UdpSink("127.0.0.1", 12000),),
    confidence=0.3,
)
ASSIGNMENT = Assignment(
    pipeline_id="door",
    generation=7,
    run_generation=3,
    desired_status="pause",
    on_disconnect="stop",
    spec=SPEC,
)
OBSERVED = Observed(pipeline_id="door", generation=7, incarnation=2, state=ObservedState.RUNNING)


@pytest.mark.parametrize(
    "message",
    [
        Hello(
            device="cam-7",
            boot=b"b" * 16,
            agent="0.1.0",
            capacity=4,
            seen_epoch=9,
            publish="tcp://10.0.0.7:7780",
            observed=(OBSERVED,),
        ),
        Heartbeat(1, 3, 4, None),
        Heartbeat(1, 3, 2**64 - 1, (OBSERVED,)),
        HeartbeatAck(1),
        Desired(3, (ASSIGNMENT,)),
        Refused("stale_session", "hello first"),
        pack_request(GetPipeline("door")),
    ],
)
def test_a_message_is_read_as_it_was_written(message: object) -> None:
    envelope = Envelope(message, epoch=5, session=b"s" * 16, seq=17, request_id=b"r" * 16)  # type: ignore[arg-type]

    assert decode(encode(envelope)) == envelope


@pytest.mark.parametrize(
    "request_",
    [
        CreatePipeline(pipeline_id="door", spec=SPEC, device="cam-7"),
        CreatePipeline(
            pipeline_id="door",
            spec=SPEC,
            device=None,
            selector={"site": "hall-1"},
            labels={"line": "2"},
            desired_status="pause",
            key="key",
            digest="digest",
        ),
        PutPipeline(
            pipeline_id="door",
            spec=SPEC,
            device=None,
            selector={"site": "hall-1"},
            labels={"line": "2"},
            desired_status="pause",
            expected=3,
            wait_ms=5000,
        ),
        RestartPipeline("door"),
        ChangePipelines(("door", "gate"), "restart", 5000),
        GetDevice("cam-7"),
        LabelDevice("cam-7", {"site": "hall-1"}),
        RemoveDevice("cam-7"),
        ListSubscribers(),
        RemoveSubscriber("wall"),
        RemoveModel("parts/1"),
        GetEvents(7, 41, 5000),
    ],
)
def test_a_request_is_read_as_it_was_written(request_: OperatorRequest) -> None:
    assert unpack_request(pack_request(request_)) == request_


@pytest.mark.parametrize(
    "data",
    [
        Put(
            PipelineView(
                pipeline_id="door",
                generation=7,
                desired_status="run",
                status="moving",
                device="cam-7",
                pinned=False,
                spec=SPEC,
                version=3,
            ),
            False,
            True,
            False,
        ),
        Outcome("gate", refusal="conflict", message="it is over"),
        Events(
            7,
            (
                FleetEvent(
                    n=41,
                    at=1.5e9,
                    subject="pipeline",
                    id="door",
                    state="gone",
                    previous="stopping",
                    device="cam-7",
                ),
            ),
            lost=True,
        ),
        DeviceView(
            device="cam-7",
            state="ready",
            capacity=4,
            pipelines=1,
            agent="0.1.0",
            silent=0.5,
            labels={"site": "hall-1"},
            dropped={"data": 7},
        ),
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
    header, request_id, _ = encode(Envelope(HeartbeatAck(1)))
    body = msgpack.packb({"number": 1, "from_the_future": [1, 2]})

    assert decode([header, request_id, body]).message == HeartbeatAck(1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (msgpack.packb({"number": -1}), "a HeartbeatAck"),
        (msgpack.packb({"want_full": False}), "a HeartbeatAck"),
        (msgpack.packb([1, 2]), "a HeartbeatAck"),
        (msgpack.packb({1: 2}), "a HeartbeatAck"),
        (msgpack.packb({"number": msgpack.ExtType(4, b"x")}), "a HeartbeatAck"),
        (b"\xdd\xff\xff\xff\xff", "a HeartbeatAck"),
        (b"\x91" * 60_000, "a HeartbeatAck"),
        (b"", "msgpack"),
        (msgpack.packb({"number": 1}) + b"x", "msgpack"),
        (b"x" * (MAX_CONTROL_BODY + 1), f"a body of at most {MAX_CONTROL_BODY} bytes"),
    ],
)
def test_a_wrong_body_is_refused_with_what_was_expected(body: bytes, expected: str) -> None:
    header, request_id, _ = encode(Envelope(HeartbeatAck(1)))

    with pytest.raises(BadMessage) as caught:
        decode([header, request_id, body])

    assert caught.value.expected == expected


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_no_bytes_raise_anything_but_bad_message(frames: list[bytes]) -> None:
    with contextlib.suppress(BadMessage):
        decode(frames)


@given(st.data())
def test_every_flipped_bit_is_read_or_refused(data: st.DataObject) -> None:
    frames = [
        bytearray(frame)
        for frame in encode(Envelope(Desired(3, (ASSIGNMENT,)), epoch=5, session=b"s" * 16, seq=17))
    ]
    frame = data.draw(st.sampled_from([0, 2]))
    position = data.draw(st.integers(0, len(frames[frame]) * 8 - 1))
    frames[frame][position // 8] ^= 1 << (position % 8)

    with contextlib.suppress(BadMessage):
        decode([bytes(frame) for frame in frames])


def test_a_header_orders_and_dates_a_prediction() -> None:
    header = DataHeader(
        kind=Kind.PRED,
        gen=7,
        inc=2,
        seq=41,
        device=3,
        captured_wall_ns=10**18,
        captured_boot_ns=10**12,
        source=1,
        flags=Flag.TRUNCATED,
    )

    assert len(header.pack()) == 48
    assert DataHeader.unpack(header.pack()) == header
    assert header.key < DataHeader(kind=Kind.PRED, gen=7, inc=3, seq=0).key


def test_a_topic_matches_no_other_pipeline_as_a_prefix() -> None:
    assert pipeline_topic(Kind.PRED, "p1") == b"v1/pred/p1/"
    assert not pipeline_topic(Kind.PRED, "p10").startswith(pipeline_topic(Kind.PRED, "p1"))
    assert device_topic("cam-7") == b"v1/stat/@cam-7/"


def test_data_frames_are_split_into_subject_header_and_body() -> None:
    header = DataHeader(kind=Kind.STAT, gen=1, inc=0, seq=0)

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
    assert (
        kind_of([pipeline_topic(kind, "door"), DataHeader(kind=kind, gen=1, inc=0, seq=0).pack(), b"\x80"])
        is kind
    )


@pytest.mark.parametrize(
    "header",
    [
        b"",
        DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=0).pack()[:-1],
        DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=0).pack() + b"x",
        b"SX" + DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=0).pack()[2:],
        b"SD\x02" + DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=0).pack()[3:],
        b"SD\x01\x09" + DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=0).pack()[4:],
    ],
)
def test_a_header_that_is_none_of_ours_has_no_kind(header: bytes) -> None:
    frames = [device_topic("cam-7"), header, b"\x80"]

    with pytest.raises(BadData):
        kind_of(frames)
    with pytest.raises(BadData):
        split(frames)


def test_equal_observations_have_equal_digests_in_any_order() -> None:
    other = Observed(
        pipeline_id="gate", generation=1, incarnation=0, state=ObservedState.FAILED, reason="no such model"
    )

    assert observed_digest((OBSERVED, other)) == observed_digest((other, OBSERVED))
    assert observed_digest((OBSERVED,)) != observed_digest((OBSERVED, other))
    assert observed_digest((OBSERVED,)) != observed_digest((replace(OBSERVED, crashes=1),))


def test_equal_manifests_have_equal_digests() -> None:
    manifest = Manifest(
        family="yolox", labels=("person",), input_width=416, input_height=416, weights=Weights("cd" * 32, 100)
    )

    assert Manifest.decode(manifest.encode()) == manifest
    assert Manifest.decode(manifest.encode()).digest == manifest.digest


def test_a_variant_takes_the_place_of_one_for_the_same_board() -> None:
    def variant(board: str, precision: str) -> Variant:
        return Variant(
            board=board,
            provider="CPUExecutionProvider",
            precision=precision,
            weights=Weights("ef" * 32, 50),
            speedup=1.5,
            agreement=0.99,
        )

    plain = Manifest(
        family="yolox", labels=("person",), input_width=416, input_height=416, weights=Weights("cd" * 32, 100)
    )
    older = plain.with_variant(variant("b", "fp16")).with_variant(variant("a", "int8"))
    newer = older.with_variant(variant("b", "int8"))

    assert newer.variants == (variant("a", "int8"), variant("b", "int8"))
    assert (newer.variant_for("b"), newer.variant_for("c")) == (variant("b", "int8"), None)
    assert Manifest.decode(newer.encode()) == newer
    assert len({plain.digest, older.digest, newer.digest}) == 3
    assert b"variants" not in plain.encode()


TOKEN = JoinToken(
    device="cam-7", endpoints=("tcp://10.0.0.1:7771",), broker_key="k" * 40, secret_key="s" * 40
)


def test_a_token_is_one_line_that_is_read_as_it_was_written() -> None:
    line = TOKEN.encode()

    assert line.startswith("sf1.")
    assert len(line.split()) == 1
    assert JoinToken.decode(f"  {line}\n") == TOKEN


def test_a_token_tells_the_certificate_of_the_api_and_those_of_before_tell_none() -> None:
    pinned = replace(TOKEN, api_fingerprint="ab" * 32)
    content = {name: value for name, value in to_plain(TOKEN).items() if name != "api_fingerprint"}
    packed = msgpack.packb(content)
    line = base64.urlsafe_b64encode(zlib.crc32(packed).to_bytes(4, "big") + packed).decode().rstrip("=")

    assert JoinToken.decode(pinned.encode()) == pinned
    assert JoinToken.decode(f"sf1.{line}") == TOKEN
    with pytest.raises(BadToken, match="api_fingerprint"):
        JoinToken.decode(replace(TOKEN, api_fingerprint="ab" * 31).encode())


@pytest.mark.parametrize(
    "line", ["", "K10abc", TOKEN.encode()[:-3], TOKEN.encode()[:20] + "!" + TOKEN.encode()[21:]]
)
def test_a_cut_or_mistyped_token_says_so(line: str) -> None:
    with pytest.raises(BadToken, match="not a join token"):
        JoinToken.decode(line)
