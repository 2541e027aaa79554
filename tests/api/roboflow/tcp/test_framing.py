"""Frames of the Stream Manager's protocol: every way to cut them, and everything that is none."""

from __future__ import annotations

import itertools
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_api.roboflow.tcp.framing import MAX_PAYLOAD, BadFrame, Frame, command_in, framed
from streamfleet_api.roboflow.tcp.replies import listed, reply, success


def fed(*pieces: bytes) -> bytes | None:
    """What a frame is after these pieces."""
    frame = Frame()
    found = None
    for piece in pieces:
        found = frame.feed(piece)
    return found


@given(st.binary(min_size=1, max_size=64), st.lists(st.integers(1, 67), max_size=8))
def test_a_frame_is_the_same_however_it_is_cut(payload: bytes, cuts: list[int]) -> None:
    whole = framed(payload)
    ends = [0, *sorted({cut for cut in cuts if cut < len(whole)}), len(whole)]

    pieces = [whole[begin:end] for begin, end in itertools.pairwise(ends)]

    assert fed(*pieces) == payload
    assert fed(*pieces[:-1]) is None


def test_exactly_as_many_bytes_are_read_as_were_announced() -> None:
    assert fed(framed(b"{}") + framed(b"[]")) == b"{}"


@pytest.mark.parametrize(
    ("came", "error_class", "message"),
    [
        (b"", "MalformedHeaderError", "Expected header size: 4, received: b''"),
        (b"\0\0", "MalformedHeaderError", "Expected header size: 4, received: b'\\x00\\x00'"),
        (b"\0\0\0\7", "TransmissionChannelClosed", "Expected payload size: 7, received: 0"),
        (b"\0\0\0\7{}", "TransmissionChannelClosed", "Expected payload size: 7, received: 2"),
    ],
)
def test_a_frame_that_got_no_further_says_how_far_it_got(came: bytes, error_class: str, message: str) -> None:
    frame = Frame()
    assert frame.feed(came) is None

    missing = frame.missing

    assert (missing.error_type, missing.error_class, str(missing)) == ("internal_error", error_class, message)


@pytest.mark.parametrize(
    ("header", "error_type", "error_class", "message"),
    [
        (0, "internal_error", "MalformedHeaderError", "Header is indicating non positive payload size: 0"),
        (MAX_PAYLOAD + 1, "invalid_payload", "MessageToBigError", "1048576 bytes, the header says 1048577"),
        (2**32 - 1, "invalid_payload", "MessageToBigError", "the header says 4294967295"),
    ],
)
def test_a_length_that_cannot_be_is_refused_by_its_header_alone(
    header: int, error_type: str, error_class: str, message: str
) -> None:
    with pytest.raises(BadFrame) as raised:
        Frame().feed(header.to_bytes(4, "big"))

    assert (raised.value.error_type, raised.value.error_class) == (error_type, error_class)
    assert message in str(raised.value)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"])
def test_who_speaks_http_to_this_port_is_told_so(method: str) -> None:
    with pytest.raises(BadFrame) as raised:
        Frame().feed(f"{method} / HTTP/1.1\r\nHost: 127.0.0.1:7070\r\n\r\n".encode())

    assert (raised.value.error_type, raised.value.error_class) == ("invalid_payload", "MessageToBigError")
    assert str(raised.value).startswith("this looks like HTTP, but this port speaks the Stream Manager's own")
    assert "HTTP is on the api's own port" in str(raised.value)


def test_the_largest_frame_is_read() -> None:
    assert fed(framed(b" " * MAX_PAYLOAD)) == b" " * MAX_PAYLOAD


@pytest.mark.parametrize(
    ("payload", "error_type", "error_class"),
    [
        (b"{", "invalid_payload", "MalformedPayloadError"),
        (b"\xff\xfe\xfd", "invalid_payload", "MalformedPayloadError"),
        (b"\0", "invalid_payload", "MalformedPayloadError"),
        (b'{"max_fps": NaN}', "invalid_payload", "MalformedPayloadError"),
        (b"[" * 100_000, "invalid_payload", "MalformedPayloadError"),
        (b"[]", "internal_error", "TypeError"),
        (b'"init"', "internal_error", "TypeError"),
        (b"null", "internal_error", "TypeError"),
    ],
)
def test_a_payload_that_is_no_command_is_refused(payload: bytes, error_type: str, error_class: str) -> None:
    with pytest.raises(BadFrame) as raised:
        command_in(payload)

    assert (raised.value.error_type, raised.value.error_class) == (error_type, error_class)
    if error_class == "MalformedPayloadError":
        assert str(raised.value).startswith("Received payload that is not in a JSON format")


def test_a_list_is_worded_as_every_reply() -> None:
    quick, usual = listed(["door", "hall-1"]), reply(success(pipelines=["door", "hall-1"]))

    request_id = json.loads(quick)["request_id"]
    assert uuid.UUID(request_id).version == 4
    assert quick == usual.replace(json.loads(usual)["request_id"].encode(), request_id.encode())
