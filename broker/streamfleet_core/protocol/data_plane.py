"""The data plane's frames: a topic, a header of 48 bytes, one msgpack map.

    frame 0  v1/<kind>/<pipeline id>/     ASCII; a device's own state is v1/stat/@<device>/
    frame 1  magic 2 · major 1 · kind 1 · flags 2 · source 2 · gen 8 · inc 4 · device 4 · seq 8 ·
             capture wall ns 8 · capture BOOTTIME ns 8   (network order)
    frame 2  body, one msgpack map of at most 1 MiB; of `img`, which has sockets of its own, a JPEG picture

The kind is first, so that `v1/pred/` matches all predictions. The slash is last, because ZeroMQ matches
prefixes. The topic of a pipeline does not contain its device, because pipelines may move.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_DATA_BODY, MAX_STAT_BODY, MAX_TOPIC

MAGIC = b"SD"
MAJOR = 1

_HEADER = struct.Struct(">2sBBHHQIIQQQ")
_KEY = struct.Struct(">8xQI4xQ16x")  # what orders messages
_OPENING = struct.Struct(">2sBB")  # the start of the header, which says whether the rest can be decoded

HEADER_SIZE = _HEADER.size  # bytes
GEN_FIELD = slice(8, 16)  # of a header
_SOURCE = slice(6, 8)  # likewise
MAX_GEN = 2**64 - 1


class Kind(enum.IntEnum):
    """The kind of a message on the data plane."""

    PRED = 1
    STAT = 2
    LAST = 3  # the last prediction of a source, repeated each second for subscribers that do not follow all
    IMG = 4  # the body is a JPEG picture with the boxes of the prediction that has the same key
    SELECT = 6  # of the relay alone: the pipelines that have some labels, see `selection`
    REPLAY = 5  # an earlier prediction again, for a subscriber that asked for it: see `replay`


_KINDS = {kind.value: kind for kind in Kind}
_NAMES = {kind.name.lower().encode(): kind for kind in Kind}  # in topics
_LIMITS = {kind: MAX_STAT_BODY if kind is Kind.STAT else MAX_DATA_BODY for kind in Kind}


class Flag(enum.IntFlag):
    """Properties of one message."""

    NONE = 0
    ANSWER = 2  # of a replay: the end of it, with a `ReplayAnswer` as the body
    HOLDERS = 4  # of a replay: the start of it, with `ReplayHolders` as the body
    TRUNCATED = 16  # predictions were left out: the message would be too large


@dataclass(frozen=True, slots=True, kw_only=True)
class DataHeader:
    """The order and the time of a message. A receiver accepts only increasing keys."""

    kind: Kind
    gen: int
    inc: int
    seq: int  # from 0 within (gen, inc)
    device: int = 0  # the short id from Welcome
    captured_wall_ns: int = 0
    captured_boot_ns: int = 0
    source: int = 0  # its index in the pipeline
    flags: Flag = Flag.NONE

    @property
    def key(self) -> tuple[int, int, int]:
        """The order of messages of one pipeline and kind."""
        return (self.gen, self.inc, self.seq)

    def pack(self) -> bytes:
        """Encode the 48 bytes of frame 1."""
        return _HEADER.pack(
            MAGIC,
            MAJOR,
            self.kind,
            self.flags,
            self.source,
            self.gen,
            self.inc,
            self.device,
            self.seq,
            self.captured_wall_ns,
            self.captured_boot_ns,
        )

    @classmethod
    def unpack(cls, frame: bytes) -> DataHeader:
        """Decode frame 1. Raises: BadData."""
        kind = _kind_of(frame)
        _, _, _, flags, source, gen, inc, device, seq, wall, boot = _HEADER.unpack(frame)
        return cls(
            kind=kind,
            gen=gen,
            inc=inc,
            seq=seq,
            device=device,
            captured_wall_ns=wall,
            captured_boot_ns=boot,
            source=source,
            flags=Flag(flags),
        )


def replay_note(key: tuple[int, int, int], flags: Flag) -> bytes:
    """The header of a message about a replay, `ANSWER` or `HOLDERS`, encoded."""
    return DataHeader(kind=Kind.REPLAY, gen=key[0], inc=key[1], seq=key[2], flags=flags).pack()


def selection_note(number: int) -> bytes:
    """The header of a message about a selection, encoded. `number` rises with each."""
    return DataHeader(kind=Kind.SELECT, gen=0, inc=0, seq=number).pack()


def pipeline_topic(kind: Kind, pipeline_id: str) -> bytes:
    """The topic of one pipeline."""
    return f"v1/{kind.name.lower()}/{pipeline_id}/".encode("ascii")


def device_topic(device: str) -> bytes:
    """The topic of a device's own state."""
    return f"v1/stat/@{device}/".encode("ascii")


def split(frames: Sequence[bytes]) -> tuple[str, DataHeader, bytes]:
    """Decode a message: subject (a pipeline's id, or `@` and a device), header, body. Raises: BadData."""
    _, subject = _checked(frames)
    return subject, DataHeader.unpack(frames[1]), frames[2]


def ordered(frames: Sequence[bytes]) -> tuple[str, tuple[int, int, int], bytes]:
    """Check a message and return its subject, key and body: takes a third of the time of `split`.

    Raises: BadData whenever `split` does.
    """
    _, subject = _checked(frames)
    gen, inc, seq = _KEY.unpack(frames[1])
    return subject, (gen, inc, seq), frames[2]


def source_of(header: bytes) -> int:
    """The source in a header that has been checked."""
    return int.from_bytes(header[_SOURCE], "big")


def kind_of(frames: Sequence[bytes]) -> Kind:
    """Check a message and return its kind, for forwarding: takes a sixth of the time of `split`.

    Raises: BadData whenever `split` does.
    """
    return _checked(frames)[0]


def _checked(frames: Sequence[bytes]) -> tuple[Kind, str]:
    """The kind and the subject of a message. Raises: BadData."""
    if len(frames) != 3:
        raise BadData("3 frames", str(len(frames)))
    topic, header, body = frames
    name, subject = subject_of(topic)
    kind = _kind_of(header)
    if _NAMES.get(name) is not kind:
        raise BadData(f"a header of the topic's kind {name!r}", kind.name)
    if len(body) > _LIMITS[kind]:
        raise BadData(f"a body of at most {_LIMITS[kind]} bytes", str(len(body)))
    return kind, subject


def subject_of(topic: bytes) -> tuple[bytes, str]:
    """Split a topic into kind and subject. Raises: BadData."""
    parts = topic.split(b"/")
    if len(parts) != 4 or parts[0] != b"v1" or parts[3] or len(topic) > MAX_TOPIC:
        raise BadData("a topic v1/<kind>/<subject>/", repr(bytes(topic[:MAX_TOPIC])))
    return parts[1], parts[2].decode("ascii", "replace")


def _kind_of(header: bytes) -> Kind:
    if len(header) != HEADER_SIZE:
        raise BadData(f"a header of {HEADER_SIZE} bytes", str(len(header)))
    magic, major, number = _OPENING.unpack_from(header)
    if magic != MAGIC or major != MAJOR:
        raise BadData(f"version {MAGIC!r} {MAJOR}", f"{magic!r} {major}")
    kind = _KINDS.get(number)
    if kind is None:
        raise BadData("a known kind", str(number))
    return kind
