"""GStreamer's data protocol, version 1.0: buffers with their times, caps and events on a pipe. Pure.

    packet = header (62 bytes) + payload

Its elements `gdpdepay` and `gdppay` read and write it. The times travel with each buffer, so that a picture
of a decoder is matched to its packet even if the decoder leaves out others.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

HEADER_SIZE = 62  # bytes
NO_TIME = 2**64 - 1  # of a buffer whose time is unknown
BUFFER = 1
CAPS = 2

_EVENT = 64  # added to the type of an event
_STREAM_START = 10254
_SEGMENT = 17934
# version, flags, type, length, pts, duration, offset, end, buffer flags, dts, checksums (unused)
_HEADER = struct.Struct(">BBBxHIQQQQHQ6xHH")
# Times count from 0 without an end.
_ENDLESS = (
    'GstEventSegment, segment=(GstSegment)"segment, flags=(GstSegmentFlags)GST_SEGMENT_FLAG_NONE,'
    " rate=(double)1, applied-rate=(double)1, format=(GstFormat)time, base=(guint64)0, offset=(guint64)0,"
    " start=(guint64)0, stop=(guint64)18446744073709551615, time=(guint64)0, position=(guint64)0,"
    ' duration=(guint64)18446744073709551615;";'
)
_FIELD = r"{}=\((?:int|string)\)([\w-]+)"
_MOST_SIDE = 1 << 14  # pixels of a side of a picture


class BadData(Exception):
    """What arrived over the pipe is not this protocol."""


@dataclass(frozen=True, slots=True)
class Header:
    """The start of a packet."""

    kind: int  # BUFFER, CAPS, or an event
    length: int  # bytes of the payload
    pts: int  # nanoseconds; NO_TIME: unknown

    @classmethod
    def decode(cls, content: bytes) -> Header:
        """Decode `HEADER_SIZE` bytes. Raises: BadData."""
        major, minor, _flags, kind, length, pts, *_ = _HEADER.unpack(content)
        if (major, minor) != (1, 0) or (kind not in (BUFFER, CAPS) and kind < _EVENT):
            raise BadData(f"expected a header of version 1.0, got {content[:6].hex()}")
        return cls(kind, length, pts)


@dataclass(frozen=True, slots=True)
class RawFormat:
    """The format of raw pictures. Rows are padded to 4 bytes, as GStreamer does by default."""

    name: str  # I420 or NV12
    width: int  # pixels
    height: int  # pixels

    @classmethod
    def parse(cls, caps: bytes) -> RawFormat:
        """Parse the payload of a CAPS packet. Raises: BadData."""
        text = caps.rstrip(b"\0").decode(errors="replace")
        found = [re.search(_FIELD.format(name), text) for name in ("format", "width", "height")]
        values = [match[1] for match in found if match is not None]
        if not text.startswith("video/x-raw") or len(values) < 3 or values[0] not in ("I420", "NV12"):
            raise BadData(f"expected raw pictures as I420 or NV12, got {text[:100]!r}")
        width, height = (int(value) if value.isdecimal() else 0 for value in values[1:])
        if not (0 < width <= _MOST_SIDE and 0 < height <= _MOST_SIDE):
            raise BadData(f"expected a size up to {_MOST_SIDE} pixels, got {values[1]}x{values[2]}")
        return cls(values[0], width, height)

    @property
    def planes(self) -> tuple[tuple[int, int, int], ...]:
        """Rows, bytes per row without padding, and bytes per row, of each plane in order."""
        rows, columns = (self.height + 1) // 2, (self.width + 1) // 2
        luma = (self.height, self.width, _padded(self.width))
        if self.name == "NV12":
            return luma, (rows, 2 * columns, _padded(self.width))
        return luma, (rows, columns, _padded(columns)), (rows, columns, _padded(columns))

    @property
    def size(self) -> int:
        """Bytes of a picture. Of an odd height, each plane has room for one more row of luma."""
        luma, *chroma = self.planes
        return luma[2] * (self.height + self.height % 2) + sum(rows * stride for rows, _, stride in chroma)


def begin(media_type: str) -> bytes:
    """The packets before the first buffer of a stream of this type."""
    return (
        _packet(_EVENT + _STREAM_START, b"GstEventStreamStart, stream-id=(string)source;\0")
        + _packet(CAPS, media_type.encode() + b"\0")
        + _packet(_EVENT + _SEGMENT, _ENDLESS.encode() + b"\0")
    )


def buffer(content: bytes, pts: int) -> bytes:
    """The packet of a buffer. `pts`: nanoseconds, or NO_TIME."""
    return _packet(BUFFER, content, pts)


def _packet(kind: int, payload: bytes, pts: int = NO_TIME) -> bytes:
    rest = (NO_TIME, NO_TIME, NO_TIME, 0, NO_TIME, 0, 0)  # from the duration on
    return _HEADER.pack(1, 0, 0, kind, len(payload), pts, *rest) + payload


def _padded(size: int) -> int:
    return (size + 3) // 4 * 4
