"""One message as one packet.

    where 1 · flags 1 · length of the topic 1 · topic · header 48 · body

`where` says whether the body is in the packet, or in memory whose descriptor is attached (SCM_RIGHTS).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from streamfleet_core.protocol.data_plane import HEADER_SIZE

MAX_PACKET = 65_536  # bytes

_HEAD = struct.Struct("<cBB")
_INLINE = b"H"
_ATTACHED = b"A"
_FENCED = 1  # bit of the flags, the only one


class BadPacket(Exception):
    """An invalid packet. The text says what was expected and what it has."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(f"expected {expected}, got {got}")


class Message(NamedTuple):
    """A message. A tuple, because one is created per frame and costs a third of a dataclass."""

    fenced: bool  # the publisher checks the fence before it forwards this
    topic: bytes
    header: bytes  # `HEADER_SIZE` bytes
    body: bytes


def size(message: Message) -> int:
    """The size of the packet with the body in it, in bytes."""
    return _HEAD.size + len(message.topic) + HEADER_SIZE + len(message.body)


def pack(message: Message) -> Sequence[bytes]:
    """The parts of a packet that includes the body."""
    fenced, topic, header, body = message
    return _HEAD.pack(_INLINE, fenced, len(topic)), topic, header, body


def pack_without_body(message: Message) -> Sequence[bytes]:
    """The parts of a packet whose body is in attached memory."""
    fenced, topic, header, _ = message
    return _HEAD.pack(_ATTACHED, fenced, len(topic)), topic, header


def unpack(packet: bytes) -> tuple[Message, bool]:
    """Decode a packet. Returns the message, and whether its body is in attached memory. Raises: BadPacket."""
    if len(packet) < _HEAD.size + HEADER_SIZE:
        raise BadPacket(f"{_HEAD.size + HEADER_SIZE} bytes or more", len(packet))
    where, flags, length = _HEAD.unpack_from(packet)
    header = _HEAD.size + length
    body = header + HEADER_SIZE
    attached = where == _ATTACHED
    if not (attached or where == _INLINE) or flags & ~_FENCED:
        raise BadPacket("a message with its body in the packet or attached", packet[: _HEAD.size])
    if len(packet) < body or (attached and len(packet) > body):
        raise BadPacket(f"{body} bytes{'' if attached else ' or more'}", len(packet))
    message = Message(flags == _FENCED, packet[_HEAD.size : header], packet[header:body], packet[body:])
    return message, attached
