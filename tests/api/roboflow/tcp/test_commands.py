"""The Stream Manager's port over real sockets: every command, every reply, every error of the original."""

from __future__ import annotations

import json
import socket
import uuid
from typing import Any

import pytest

from streamfleet_core.protocol.messages import Error, ErrorCode
from streamfleet_core.protocol.requests import ChangePipeline, CreatePipeline
from streamfleet_core.protocol.values import ModelRef, UdpSink
from tests.api.conftest import Api, until
from tests.fakes.broker import Peer, pipeline, spec
from tests.fakes.manager_client import ask, ask_bytes, connect, framed, received

MODEL = ModelRef("parts/1", "ab" * 32)


def init(**changes: Any) -> dict[str, Any]:
    """A legal `init`, with changes; None takes a key away."""
    sink = {"type": "udp_sink", "host": "127.0.0.1", "port": 12000}
    content = {
        "model_id": "parts/1",
        "video_reference": "rtsp://cam/1",
        "sink_configuration": sink,
        "model_configuration": {"type": "object-detection"},
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}


@pytest.fixture
def port(api: Api, peer: Peer, nothing_listed: None) -> int:
    """Where the Stream Manager listens, in front of a broker that knows a model."""
    peer.models["parts/1"] = MODEL
    return api.manager_port


def failure(error_type: str, error_class: str | None = None, message: str | None = None) -> dict[str, Any]:
    """The response of a failure."""
    response = {"status": "failure", "error_type": error_type}
    return (
        response
        if error_class is None
        else {**response, "error_class": error_class, "error_message": message}
    )


# success --------------------------------------------------------------------------------------------------


def test_pipelines_are_listed_and_the_reply_has_its_three_keys_in_order(port: int, peer: Peer) -> None:
    peer.pipelines.update({name: pipeline(name) for name in ("b", "a")})

    reply = ask(port, "list_pipelines")

    assert list(reply) == ["request_id", "response", "pipeline_id"]
    assert uuid.UUID(reply["request_id"]).version == 4
    assert reply["response"] == {"status": "success", "pipelines": ["b", "a"]}
    assert reply["pipeline_id"] is None


def test_init_answers_with_an_id_of_our_making(port: int, peer: Peer) -> None:
    reply = ask(port, "init", "mine", **init(surprise=[1]))

    assert reply["response"] == {"status": "success"}
    assert uuid.UUID(reply["pipeline_id"]).version == 4
    assert list(peer.pipelines) == [reply["pipeline_id"]]
    created = peer.asked[-1]
    assert isinstance(created, CreatePipeline)
    assert (created.spec.model, created.spec.sinks) == (MODEL, (UdpSink("127.0.0.1", 12000),))


@pytest.mark.parametrize(
    "changes",
    [
        {"source_buffer_filling_strategy": "drop_oldest", "source_buffer_consumption_strategy": "eager"},
        {"video_reference": "/there/is/no/such.mp4"},
        {"video_reference": "rtsp://127.0.0.1:9/nobody"},
        {"video_source_properties": {"no_such_property": 1}},
        {"api_key": "any"},
        {"max_fps": 5, "batch_collection_timeout": 0.5, "active_learning_enabled": True},
    ],
)
def test_an_init_whose_failure_shows_in_the_status_only_is_a_success(
    port: int, changes: dict[str, Any]
) -> None:
    assert ask(port, "init", **init(**changes))["response"] == {"status": "success"}


@pytest.mark.parametrize(
    ("kind", "before", "desired_status"),
    [("mute", "running", "pause"), ("resume", "paused", "run"), ("terminate", "running", "stop")],
)
def test_a_command_is_done_and_its_reply_has_the_pipelines_id(
    port: int, peer: Peer, kind: str, before: Any, desired_status: str
) -> None:
    state = {"running": "run", "paused": "pause"}[before]
    peer.pipelines["door"] = pipeline("door", status=before, desired_status=state)

    reply = ask(port, kind, "door", surprise=1)

    assert (reply["response"], reply["pipeline_id"]) == ({"status": "success"}, "door")
    changed = peer.asked[-1]
    assert isinstance(changed, ChangePipeline)
    assert changed.desired_status == desired_status


def test_the_status_has_the_originals_four_keys_first(port: int, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    reply = ask(port, "status", "door")

    assert list(reply["response"]) == ["status", "report"]
    assert list(reply["response"]["report"])[:4] == [
        *("video_source_status_updates", "latency_reports"),
        *("inference_throughput", "sources_metadata"),
    ]
    assert "hunter2" not in json.dumps(reply)


# section 3.4: bad input -----------------------------------------------------------------------------------


def test_a_request_in_pieces_is_read(port: int) -> None:
    whole = framed(b'{"type": "list_pipelines"}')

    reply = ask_bytes(port, *(whole[at : at + 1] for at in range(len(whole))))

    assert reply["response"] == {"status": "success", "pipelines": []}


def test_of_two_frames_the_first_is_read(port: int) -> None:
    twice = framed(b'{"type": "list_pipelines"}') * 2

    assert ask_bytes(port, twice)["response"] == {"status": "success", "pipelines": []}


def test_a_request_whose_sender_closed_its_half_is_answered(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(framed(b'{"type": "list_pipelines"}'))
        connection.shutdown(socket.SHUT_WR)

        assert received(connection)["response"]["status"] == "success"


@pytest.mark.parametrize(
    ("came", "error_class", "message"),
    [
        (b"", "MalformedHeaderError", "Expected header size: 4, received: b''"),
        (b"\0", "MalformedHeaderError", "Expected header size: 4, received: b'\\x00'"),
        (b"\0\0\0\x09{}", "TransmissionChannelClosed", "Expected payload size: 9, received: 2"),
    ],
)
def test_half_a_request_and_then_the_end_is_an_internal_error(
    port: int, came: bytes, error_class: str, message: str
) -> None:
    with connect(port) as connection:
        connection.sendall(came)
        connection.shutdown(socket.SHUT_WR)
        reply = received(connection)

    assert reply["response"] == failure("internal_error", error_class, message)
    assert reply["pipeline_id"] is None


@pytest.mark.parametrize(
    ("sent", "error_type", "error_class", "message"),
    [
        (
            b"\0\0\0\0",
            "internal_error",
            "MalformedHeaderError",
            "Header is indicating non positive payload size: 0",
        ),
        (
            b"\xff\xff\xff\xff" + b"x" * 2_000_000,
            "invalid_payload",
            "MessageToBigError",
            "expected a payload of at most 1048576 bytes, the header says 4294967295",
        ),
        (
            framed(b"{\x80"),
            "invalid_payload",
            "MalformedPayloadError",
            "Received payload that is not in a JSON format: Expecting UTF-8 at 1",
        ),
        (
            framed(b"{nothing"),
            "invalid_payload",
            "MalformedPayloadError",
            "Received payload that is not in a JSON format: "
            "Expecting property name enclosed in double quotes at 1",
        ),
        (framed(b"[]"), "internal_error", "TypeError", "expected a JSON object, got list"),
        (framed(b'"init"'), "internal_error", "TypeError", "expected a JSON object, got str"),
        (framed(b"null"), "internal_error", "TypeError", "expected a JSON object, got NoneType"),
    ],
)
def test_what_is_no_command_is_answered_as_the_original_does(
    port: int, sent: bytes, error_type: str, error_class: str, message: str
) -> None:
    reply = ask_bytes(port, sent)

    assert reply["response"] == failure(error_type, error_class, message)
    assert reply["pipeline_id"] is None


@pytest.mark.parametrize(
    ("command", "error_class", "message"),
    [
        ({}, "KeyError", "'type'"),
        ({"type": "zzz"}, "ValueError", "'zzz' is not a valid CommandType"),
        ({"type": "INIT"}, "ValueError", "'INIT' is not a valid CommandType"),
        ({"type": "pause"}, "ValueError", "'pause' is not a valid CommandType"),
        ({"type": None}, "ValueError", "None is not a valid CommandType"),
        ({"type": ["init"]}, "ValueError", "['init'] is not a valid CommandType"),
        ({"type": "z" * 9999}, "ValueError", "is not a valid CommandType"),
        *(
            ({"type": kind}, "KeyError", "'pipeline_id'")
            for kind in ("status", "mute", "resume", "terminate", "consume_result")
        ),
    ],
)
def test_a_command_without_type_or_pipeline_is_an_invalid_payload(
    port: int, command: dict[str, Any], error_class: str, message: str
) -> None:
    reply = ask_bytes(port, framed(json.dumps(command).encode()))

    response = reply["response"]
    assert (response["status"], response["error_type"]) == ("failure", "invalid_payload")
    assert list(response)[:4] == ["status", "error_type", "error_class", "error_message"]
    assert response["error_class"] == error_class
    assert message in response["error_message"]
    assert reply["pipeline_id"] is None
    assert len(json.dumps(reply)) < 1000


@pytest.mark.parametrize("kind", ["status", "mute", "resume", "terminate"])
@pytest.mark.parametrize("pipeline_id", ["nobody", "", "a b", "../..", "x" * 500, "\ud800"])
def test_an_unknown_pipeline_is_not_found_without_another_word(
    port: int, kind: str, pipeline_id: str
) -> None:
    reply = ask(port, kind, pipeline_id)

    assert reply["response"] == failure("not_found")
    assert reply["pipeline_id"] == pipeline_id


@pytest.mark.parametrize("pipeline_id", [["a"], {"a": 1}, 7, None])
def test_a_pipeline_id_that_is_no_string_is_an_internal_error(port: int, pipeline_id: object) -> None:
    command = {"type": "status", "pipeline_id": pipeline_id}

    response = ask_bytes(port, framed(json.dumps(command).encode()))["response"]

    assert (response["error_type"], response["error_class"]) == ("internal_error", "TypeError")


def test_whoever_is_gone_when_the_reply_comes_harms_nobody(port: int, api: Api) -> None:
    for _ in range(20):
        with connect(port) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.sendall(framed(b'{"type": "list_pipelines"}'))

    assert ask(port, "list_pipelines")["response"]["status"] == "success"
    assert "Traceback" not in api.log.read_text()


# section 3.5: outcomes of init ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model_configuration", "sink_configuration", "video_reference", "model_id"])
def test_an_init_without_one_of_its_keys_is_a_key_error_under_a_new_id(
    port: int, peer: Peer, key: str
) -> None:
    reply = ask(port, "init", **init(**{key: None}))

    assert reply["response"] == failure("invalid_payload", "KeyError", repr(key))
    assert uuid.UUID(reply["pipeline_id"]).version == 4
    assert not peer.pipelines


@pytest.mark.parametrize(
    ("changes", "error_type", "error_class", "message"),
    [
        (
            {"sink_configuration": {"type": "tcp", "host": "h", "port": 1}},
            "invalid_payload",
            "NotImplementedError",
            "Only `udp_socket` sink type is supported",
        ),
        (
            {"model_configuration": {"type": "classification"}},
            "invalid_payload",
            "NotImplementedError",
            "'object-detection'",
        ),
        ({"sink_configuration": {"port": 1}}, "invalid_payload", "KeyError", "'host'"),
        ({"max_fps": "fast"}, "invalid_payload", "ValidationError", "max_fps"),
        ({"model_id": 7}, "invalid_payload", "ValidationError", "model_id"),
        ({"model_id": "../../etc/passwd"}, "invalid_payload", "ValueError", "model_id"),
        ({"model_id": "nobody/1"}, "not_found", "RoboflowAPINotNotFoundError", "nobody/1"),
        ({"source_buffer_filling_strategy": "zzz"}, "internal_error", "ValueError", "'ZZZ' is not a valid"),
        ({"video_reference": []}, "internal_error", "ValueError", "empty list"),
        ({"video_source_properties": [{}, {}]}, "internal_error", "ValueError", "got 2"),
    ],
)
def test_an_init_that_cannot_be_says_why_and_leaves_nothing(
    port: int, peer: Peer, changes: dict[str, Any], error_type: str, error_class: str, message: str
) -> None:
    reply = ask(port, "init", **init(**changes))

    response = reply["response"]
    assert list(response) == ["status", "error_type", "error_class", "error_message"]
    assert (response["error_type"], response["error_class"]) == (error_type, error_class)
    assert message in response["error_message"]
    assert uuid.UUID(reply["pipeline_id"]).version == 4
    assert not peer.pipelines
    assert ask(port, "terminate", reply["pipeline_id"])["response"] == failure("not_found")


def test_an_init_that_the_broker_never_confirmed_is_taken_back(api: Api, port: int, peer: Peer) -> None:
    def loses_the_answer(asked: object) -> Any:
        answer = peer.honest(asked)  # type: ignore[arg-type]
        return None if isinstance(asked, CreatePipeline) else answer

    peer.answer = loses_the_answer

    reply = ask(port, "init", **init())

    assert reply["response"]["error_type"] == "internal_error"
    assert reply["response"]["error_class"] == "ConnectionError"
    until(lambda: not peer.pipelines)
    assert isinstance(peer.asked[-1], ChangePipeline)


@pytest.mark.parametrize(
    ("kind", "before", "message"),
    [
        (
            "mute",
            {"status": "paused", "desired_status": "pause"},
            "Could not MUTE stream in state: StreamState.MUTED",
        ),
        ("mute", {"status": "failed"}, "Could not MUTE stream in state: StreamState.ERROR"),
        (
            "mute",
            {"status": "paused", "desired_status": "pause", "spec": spec("/videos/a.mp4")},
            "Could not MUTE stream in state: StreamState.PAUSED",
        ),
        ("resume", {"status": "running"}, "Could not RESUME stream in state: StreamState.RUNNING"),
        ("resume", {"status": "ended"}, "Could not RESUME stream in state: StreamState.ENDED"),
    ],
)
def test_a_transition_that_makes_no_sense_is_an_operation_error(
    port: int, peer: Peer, kind: str, before: dict[str, Any], message: str
) -> None:
    peer.pipelines["door"] = pipeline("door", **before)

    reply = ask(port, kind, "door")

    assert reply["response"] == failure("operation_error", "StreamOperationNotAllowedError", message)
    assert reply["pipeline_id"] == "door"


@pytest.mark.parametrize(
    ("code", "error_type", "message"),
    [
        ("invalid", "invalid_payload", "the reason"),
        ("conflict", "operation_error", "the reason"),
        ("bad_message", "internal_error", "the reason"),
        ("store_down", "internal_error", "Could not communicate with Process Manager: the reason"),
    ],
)
def test_what_the_broker_refuses_is_told(
    port: int, peer: Peer, code: ErrorCode, error_type: str, message: str
) -> None:
    peer.answer = lambda _asked: Error(code, "the reason")

    response = ask(port, "status", "door")["response"]

    assert (response["error_type"], response["error_message"]) == (error_type, message)


def test_an_unconfirmed_mute_is_an_internal_error_and_may_be_asked_again(port: int, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    peer.confirms = False

    response = ask(port, "mute", "door")["response"]
    peer.confirms = True
    again = ask(port, "mute", "door")["response"]

    assert (response["error_type"], response["error_class"]) == ("internal_error", "TimeoutError")
    assert "edge-1 has not confirmed it" in response["error_message"]
    assert again == {"status": "success"}


def test_webrtc_is_refused_with_its_reason(port: int) -> None:
    response = ask(port, "webrtc", **init())["response"]

    assert (response["error_type"], response["error_class"]) == ("invalid_payload", "NotImplementedError")
    assert "WebRTC is not supported" in response["public_error_message"]
