"""Packets as byte streams."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_worker.video.hardware.annexb import ByteStream
from tests.fakes.films import FRAMES, write_film

AVCC = bytes.fromhex("01640028ffe1000367640001000268ee")


def test_lengths_become_start_codes_and_a_keyframe_has_its_parameter_sets() -> None:
    stream = ByteStream("h264", AVCC)
    packet = bytes.fromhex("0000000265880000000141")

    assert stream.convert(packet, keyframe=False).hex(" ", 1) == "00 00 00 01 65 88 00 00 00 01 41"
    assert stream.convert(packet, keyframe=True).startswith(bytes.fromhex("000000016764000000000168ee"))


@pytest.mark.parametrize("extradata", [b"", bytes.fromhex("00000001676400")])
def test_a_byte_stream_stays_as_it_is(extradata: bytes) -> None:
    stream = ByteStream("h264", extradata)
    packet = bytes.fromhex("000000016588")

    assert stream.convert(packet, keyframe=False) == packet
    assert stream.convert(packet, keyframe=True) == extradata + packet


def test_what_is_left_of_a_damaged_packet_is_kept() -> None:
    stream = ByteStream("h264", AVCC)

    assert stream.convert(bytes.fromhex("0000000265887fffffff4101"), keyframe=False) == bytes.fromhex(
        "000000016588000000014101"
    )


@given(st.sampled_from(["h264", "hevc"]), st.binary(max_size=64), st.binary(max_size=64))
def test_no_bytes_are_an_error(codec: str, extradata: bytes, packet: bytes) -> None:
    ByteStream(codec, extradata).convert(packet, keyframe=True)


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc")])
def test_ffmpeg_reads_the_byte_stream_of_a_film(tmp_path: Path, codec: str, name: str) -> None:
    options = {"x265-params": "log-level=none"} if name == "hevc" else {}
    film = write_film(tmp_path / "film.mp4", codec, options=options)
    with av.open(str(film)) as container:
        video = container.streams.video[0]
        stream = ByteStream(name, video.codec_context.extradata or b"")
        decoder = av.CodecContext.create(name, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        count = 0
        for packet in container.demux(video):
            if packet.size:
                content = stream.convert(bytes(packet), keyframe=packet.is_keyframe)
                count += len(decoder.decode(av.Packet(content)))
        count += len(decoder.decode(None))

    assert count == FRAMES
