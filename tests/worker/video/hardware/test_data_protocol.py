"""GStreamer's data protocol: what is written, and what is refused."""

from __future__ import annotations

import pytest

from streamfleet_worker.video.hardware.data_protocol import (
    BUFFER,
    CAPS,
    HEADER_SIZE,
    NO_TIME,
    BadData,
    Header,
    RawFormat,
    begin,
    buffer,
)


def test_a_buffer_has_its_length_and_its_time() -> None:
    content = buffer(b"picture", 40_000_000)

    assert Header.decode(content[:HEADER_SIZE]) == Header(BUFFER, 7, 40_000_000)
    assert content[HEADER_SIZE:] == b"picture"


def test_a_stream_begins_with_its_type_between_two_events() -> None:
    rest, kinds = begin("video/x-h264"), []
    while rest:
        header = Header.decode(rest[:HEADER_SIZE])
        kinds.append(header.kind)
        if header.kind == CAPS:
            assert rest[HEADER_SIZE:][: header.length] == b"video/x-h264\0"
        rest = rest[HEADER_SIZE + header.length :]

    assert kinds == [64 + 10254, CAPS, 64 + 17934]
    assert NO_TIME == 2**64 - 1


@pytest.mark.parametrize("start", [b"Opening in BLOCKING MODE", b"\2\0", b"\1\1", b"\1\0\0\0\0\3"])
def test_what_is_no_header_is_refused(start: bytes) -> None:
    with pytest.raises(BadData, match="expected a header of version"):
        Header.decode(start.ljust(HEADER_SIZE, b"\0"))


@pytest.mark.parametrize(
    ("caps", "planes", "size"),
    [
        (
            "format=(string)I420, width=(int)64, height=(int)48",
            ((48, 64, 64), (24, 32, 32), (24, 32, 32)),
            4608,
        ),
        ("format=(string)NV12, width=(int)66, height=(int)50", ((50, 66, 68), (25, 66, 68)), 5100),
        (
            "format=(string)I420, width=(int)61, height=(int)47",
            ((47, 61, 64), (24, 31, 32), (24, 31, 32)),
            4608,
        ),
    ],
)
def test_the_planes_of_a_format_are_padded_as_gstreamer_does(
    caps: str, planes: tuple[tuple[int, int, int], ...], size: int
) -> None:
    form = RawFormat.parse(f"video/x-raw, {caps}, framerate=(fraction)25/1\0".encode())

    assert (form.planes, form.size) == (planes, size)


@pytest.mark.parametrize(
    ("caps", "why"),
    [
        (b"video/x-h264, width=(int)64\0", "expected raw pictures as I420 or NV12"),
        (b"video/x-raw, format=(string)P010_10LE, width=(int)64, height=(int)48\0", "got 'video/x-raw"),
        (b"video/x-raw, format=(string)I420, width=(int)0, height=(int)48\0", "got 0x48"),
        (b"video/x-raw, format=(string)I420, width=(int)64, height=(int)99999\0", "expected a size up to"),
        (b"\xff\xff", "expected raw pictures"),
    ],
)
def test_another_format_is_refused(caps: bytes, why: str) -> None:
    with pytest.raises(BadData, match=why):
        RawFormat.parse(caps)
