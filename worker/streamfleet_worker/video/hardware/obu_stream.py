"""Packets of AV1 as a stream of OBUs (low-overhead format), as decoders of hardware read them. Pure.

MP4 and Matroska leave out the temporal delimiter before each unit, and may store the sequence header beside
the stream only (AV1 Codec ISO Media File Format Binding, 2.3 and 2.4).
"""

from __future__ import annotations

_DELIMITER = b"\x12\x00"
_SEQUENCE_HEADER = 1
_CONFIGURATION = 4  # bytes of an `av1C` before its OBUs


class ObuStream:
    """Converts the packets of one stream."""

    def __init__(self, extradata: bytes) -> None:
        """`extradata`: of its container; b"" if it has none."""
        is_record = len(extradata) >= _CONFIGURATION and extradata[0] == 0x81  # marker and version
        self._header = extradata[_CONFIGURATION:] if is_record else extradata

    def convert(self, content: bytes, *, keyframe: bool) -> bytes:
        """A packet with a temporal delimiter, and at a keyframe with a sequence header."""
        rest = content.removeprefix(_DELIMITER)
        # Only if it has none: its own may differ, and two that differ would be two sequences.
        has_header = rest[:1] and rest[0] >> 3 & 15 == _SEQUENCE_HEADER
        return _DELIMITER + (self._header if keyframe and not has_header else b"") + rest
