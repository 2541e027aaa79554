"""One message as one packet.

    where 1 · flags 1 · length of the topic 1 · topic · header 48 · body

`where` tells whether the body is in the packet, or in memory whose descriptor comes along (SCM_RIGHTS).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from streamfleet_core.protocol.data_plane import HEADER_SIZE

MAX_PACKET = 65_536  # bytes

_HEAD = struct.Struct("<cBB")
_HERE = b"H"
_ASIDE = b"A"
_FENCED = 1  # bit of the flags, the only one


class BadPacket(Exception):
    """A packet that is none of ours: says what was expected and what came."""

    def __init__(self, expected: str, came: object) -> None:
        super().__init__(f"expected {expected}, came {came}")


class Message(NamedTuple):
    """What is handed over. A tuple, because one is made of every frame and costs a third of a dataclass."""

    fenced: bool  # the publisher tests the fence before it sends this on
    topic: bytes
    header: bytes  # `HEADER_SIZE` bytes
    body: bytes


def size(message: Message) -> int:
    """Bytes of the packet with the body in it."""
    return _HEAD.size + len(message.topic) + HEADER_SIZE + len(message.body)


def pack(message: Message) -> Sequence[bytes]:
    """The pieces of a packet with everything in it."""
    fenced, topic, header, body = message
    return _HEAD.pack(_HERE, fenced, len(topic)), topic, header, body


def pack_without_body(message: Message) -> Sequence[bytes]:
    """The pieces of a packet whose body goes aside."""
    fenced, topic, header, _ = message
    return _HEAD.pack(_ASIDE, fenced, len(topic)), topic, header


def unpack(packet: bytes) -> tuple[Message, bool]:
    """The message, and whether its body is aside. Raises: BadPacket."""
    if len(packet) < _HEAD.size + HEADER_SIZE:
        raise BadPacket(f"{_HEAD.size + HEADER_SIZE} bytes or more", len(packet))
    where, flags, length = _HEAD.unpack_from(packet)
    header = _HEAD.size + length
    body = header + HEADER_SIZE
    aside = where == _ASIDE
    if not (aside or where == _HERE) or flags & ~_FENCED:
        raise BadPacket("a message here or aside", packet[: _HEAD.size])
    if len(packet) < body or (aside and len(packet) > body):
        raise BadPacket(f"{body} bytes{'' if aside else ' or more'}", len(packet))
    message = Message(flags == _FENCED, packet[_HEAD.size : header], packet[header:body], packet[body:])
    return message, aside
