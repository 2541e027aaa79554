"""The messages between a camera and an engine, over one unix socket (SOCK_SEQPACKET) per camera.

    engine → camera   OFFER   the shapes of the model's input and outputs, immediately
    camera → engine   SHARE   how many slots, with the descriptor of their memory (SCM_RIGHTS), once
    camera → engine   PRIORITY of all its frames from now on; until then it is normal
    camera → engine   REQUEST slot, source, time of a frame: it waits; the slot will be filled when its turn
                      comes; again with the time of a newer frame
    engine → camera   TURN    slot: fill it now
    camera → engine   DECLINE slot: nothing to infer any more
    camera → engine   RUN     slot, source: its input is complete
    engine → camera   DONE    slot: its output is complete
    engine → camera   FAILED  slot, and why

A live source asks for a turn, so that the slot gets its newest frame. A file sends RUN at once.
One message is one packet. A peer that sends anything else is disconnected.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from streamfleet_core.protocol.limits import MAX_OUTPUTS
from streamfleet_core.protocol.values import PRIORITIES, Priority

MAX_PACKET = 1024  # bytes
MAX_SLOTS = 16

_OFFER = struct.Struct("<cIIB")  # then for each output its rank, and its dimensions
_DIMENSION = struct.Struct("<I")
_MAX_RANK = 4
_SLOT = struct.Struct("<cB")
_SLOT_OF_SOURCE = struct.Struct("<cBB")
_REQUEST = struct.Struct("<cBBd")


class BadPacket(Exception):
    """A packet that violates the protocol. The text says what was expected and what it has."""

    def __init__(self, expected: str, packet: bytes) -> None:
        super().__init__(f"expected {expected}, got {packet[:32]!r}")


@dataclass(frozen=True, slots=True)
class Offer:
    """The shapes of the model's input and outputs."""

    input_height: int  # pixels
    input_width: int  # pixels
    outputs: tuple[tuple[int, ...], ...]  # the shape of each, whose first dimension is 1


@dataclass(frozen=True, slots=True)
class Share:
    """The camera's slots are in the attached memory."""

    slots: int


@dataclass(frozen=True, slots=True)
class SetPriority:
    """All frames of the camera have this priority, also those that wait."""

    priority: Priority


@dataclass(frozen=True, slots=True)
class RequestTurn:
    """A frame of this source waits, or a newer one. This slot will be filled when its turn comes."""

    slot: int
    source: int  # of the camera's pipeline; its sources take turns
    decoded_at: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of this slot has come."""

    slot: int


@dataclass(frozen=True, slots=True)
class Decline:
    """There is nothing to infer in this slot any more."""

    slot: int


@dataclass(frozen=True, slots=True)
class Run:
    """The input of this slot is complete."""

    slot: int
    source: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The output of this slot is complete."""

    slot: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Inference of this slot failed."""

    slot: int
    reason: str


FromCamera = Share | SetPriority | RequestTurn | Decline | Run
FromEngine = Offer | Turn | Done | Failed


def pack(message: FromCamera | FromEngine) -> bytes:
    """Encode a message as one packet."""
    match message:
        case Offer():
            return _pack_offer(message)
        case Share():
            return _SLOT.pack(b"S", message.slots)
        case SetPriority():
            return _SLOT.pack(b"L", PRIORITIES.index(message.priority))
        case RequestTurn():
            return _REQUEST.pack(b"W", message.slot, message.source, message.decoded_at)
        case Turn():
            return _SLOT.pack(b"T", message.slot)
        case Decline():
            return _SLOT.pack(b"P", message.slot)
        case Run():
            return _SLOT_OF_SOURCE.pack(b"R", message.slot, message.source)
        case Done():
            return _SLOT.pack(b"D", message.slot)
        case Failed():
            return _SLOT.pack(b"F", message.slot) + message.reason.encode()[: MAX_PACKET - _SLOT.size]


def unpack_from_camera(packet: bytes) -> FromCamera:
    """Decode a packet of a camera. Raises: BadPacket."""
    if len(packet) == _SLOT_OF_SOURCE.size and packet[:1] == b"R":
        return Run(*_SLOT_OF_SOURCE.unpack(packet)[1:])
    if len(packet) == _REQUEST.size and packet[:1] == b"W":
        _, slot, source, decoded_at = _REQUEST.unpack(packet)
        if math.isfinite(decoded_at):
            return RequestTurn(slot, source, decoded_at)
    if len(packet) == _SLOT.size:
        kind, number = _SLOT.unpack(packet)
        if kind == b"P":
            return Decline(number)
        if kind == b"S" and 1 <= number <= MAX_SLOTS:
            return Share(number)
        if kind == b"L" and number < len(PRIORITIES):
            return SetPriority(PRIORITIES[number])
    raise BadPacket("a share, a priority, a request for a turn, a decline or a run", packet)


def unpack_from_engine(packet: bytes) -> FromEngine:
    """Decode a packet of an engine. Raises: BadPacket."""
    if len(packet) >= _OFFER.size and packet[:1] == b"O":
        return _unpack_offer(packet)
    if len(packet) >= _SLOT.size:
        kind, slot = _SLOT.unpack_from(packet)
        if kind == b"T" and len(packet) == _SLOT.size:
            return Turn(slot)
        if kind == b"D" and len(packet) == _SLOT.size:
            return Done(slot)
        if kind == b"F":
            return Failed(slot, packet[_SLOT.size :].decode(errors="replace"))
    raise BadPacket("an offer, turn, done or failed", packet)


def _pack_offer(offer: Offer) -> bytes:
    packet = _OFFER.pack(b"O", offer.input_height, offer.input_width, len(offer.outputs))
    for shape in offer.outputs:
        packet += bytes([len(shape)]) + b"".join(map(_DIMENSION.pack, shape))
    return packet


def _unpack_offer(packet: bytes) -> Offer:
    _, height, width, count = _OFFER.unpack_from(packet)
    outputs, at = [], _OFFER.size
    for _ in range(count):
        rank = packet[at] if at < len(packet) else 0
        end = at + 1 + rank * _DIMENSION.size
        if not 1 <= rank <= _MAX_RANK or end > len(packet):
            break
        outputs.append(tuple(size for (size,) in _DIMENSION.iter_unpack(packet[at + 1 : end])))
        at = end
    shapes = tuple(outputs)
    if len(shapes) != count or not 1 <= count <= MAX_OUTPUTS or at != len(packet):
        raise BadPacket(f"the shapes of 1 to {MAX_OUTPUTS} outputs", packet)
    return Offer(height, width, shapes)
