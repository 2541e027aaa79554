"""Packets of H.264 and H.265 as byte streams (Annex B), as decoders of hardware read them. Pure.

MP4 and Matroska store the length before each unit and the parameter sets beside the stream (ISO/IEC
14496-15). A byte stream has a start code before each unit, and the parameter sets in front of a keyframe.
"""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\0\0\0\1"


class ByteStream:
    """Converts the packets of one stream."""

    def __init__(self, codec: str, extradata: bytes) -> None:
        """`codec`: h264 or hevc. `extradata`: of its container; b"" if it has none."""
        self._length_size = 0  # bytes of each length; 0: the packets are a byte stream
        self._parameters = b""
        if extradata.startswith((b"\0\0\1", _START)):
            self._parameters = extradata
        elif codec == "h264" and len(extradata) >= 7:
            self._length_size = (extradata[4] & 3) + 1
            self._parameters = b"".join(_START + unit for unit in _units_of_avcc(extradata))
        elif codec == "hevc" and len(extradata) >= 23:
            self._length_size = (extradata[21] & 3) + 1
            self._parameters = b"".join(_START + unit for unit in _units_of_hvcc(extradata))

    def convert(self, content: bytes, *, keyframe: bool) -> bytes:
        """A packet as a byte stream. Of a damaged one, what is left."""
        if self._length_size:
            content = b"".join(_START + unit for unit in _units(content, self._length_size))
        return self._parameters + content if keyframe else content


def _units(content: bytes, length_size: int) -> Iterator[bytes]:
    at = 0
    while at + length_size < len(content):
        length = int.from_bytes(content[at : at + length_size], "big")
        at += length_size
        if length:
            yield content[at : at + length]
        at += length


def _units_of_avcc(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1)."""
    at = 5
    for mask in (0x1F, 0xFF):  # SPS, then PPS
        if at >= len(extradata):
            return
        count = extradata[at] & mask
        at += 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            yield extradata[at + 2 : at + 2 + length]
            at += 2 + length


def _units_of_hvcc(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1)."""
    at = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            if not length:
                return
            yield extradata[at + 2 : at + 2 + length]
            at += 2 + length
