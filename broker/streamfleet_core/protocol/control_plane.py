"""The frames of the control plane: a header of 36 bytes, a request id, and one msgpack map.

frame 0  magic 2 · major 1 · type 1 · broker_epoch 8 · session 16 · seq 8   (network order)
frame 1  request id, 16 bytes or empty
frame 2  body, one msgpack map of at most 65 536 bytes (4 MiB in a Request, 16 MiB in a Reply, which may have
         the whole fleet in them)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY, MAX_REPLY_BODY, MAX_REQUEST_BODY
from streamfleet_core.protocol.messages import MESSAGE_TYPES, TYPE_CODES, Message, Reply, Request

MAGIC = b"SF"
MAJOR = 1
NO_SESSION = bytes(16)

_HEADER = struct.Struct(">2sBBQ16sQ")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with the numbers that fence it."""

    message: Message
    epoch: int = field(default=0, kw_only=True)  # of the broker; 0 if the worker knows none
    session: bytes = field(default=NO_SESSION, kw_only=True)  # 16 bytes
    seq: int = field(default=0, kw_only=True)  # +1 per message, in each session and direction
    request_id: bytes = field(default=b"", kw_only=True)  # 16 bytes, or empty


def encode(envelope: Envelope) -> list[bytes]:
    """Encode a message. Raises: BadMessage if the body is too large."""
    message = envelope.message
    body = _ENCODER.encode(message)
    limit = _limit(type(message))
    if len(body) > limit:
        raise BadMessage(f"a body of at most {limit} bytes", f"{len(body)} in {type(message).__name__}")
    code = TYPE_CODES[type(message)]
    header = _HEADER.pack(MAGIC, MAJOR, code, envelope.epoch, envelope.session, envelope.seq)
    return [header, envelope.request_id, body]


def decode(frames: Sequence[bytes]) -> Envelope:
    """Decode a message. Raises: BadMessage, and no other exception for any bytes."""
    if len(frames) != 3:
        raise BadMessage("3 frames", str(len(frames)))
    header, request_id, body = frames
    if len(header) != _HEADER.size:
        raise BadMessage(f"a header of {_HEADER.size} bytes", str(len(header)))
    magic, major, code, epoch, session, seq = _HEADER.unpack(header)
    if magic != MAGIC or major != MAJOR:
        raise BadMessage(f"version {MAGIC!r} {MAJOR}", f"{magic!r} {major}")
    if len(request_id) not in (0, 16):
        raise BadMessage("a request id of 0 or 16 bytes", str(len(request_id)))
    of = MESSAGE_TYPES.get(code)
    if of is None:
        raise BadMessage("a known message type", str(code))
    limit = _limit(of)
    if len(body) > limit:
        raise BadMessage(f"a body of at most {limit} bytes", str(len(body)))
    return Envelope(_decode_body(body, of), epoch=epoch, session=session, seq=seq, request_id=request_id)


def _limit(of: type[Message]) -> int:
    return _LIMITS.get(of, MAX_CONTROL_BODY)


def _decode_body(body: bytes, of: type[Message]) -> Message:
    """Decode a body. Keys that the type does not define are skipped."""
    try:
        message: Message = _DECODERS[of].decode(body)
        return message
    except msgspec.ValidationError as exc:
        raise BadMessage(f"a {of.__name__}", str(exc)) from exc
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise BadMessage("msgpack", f"{type(exc).__name__}: {exc}") from exc


def _refuse_extension(code: int, _data: memoryview) -> Any:
    raise BadMessage("plain msgpack", f"extension type {code}")


_LIMITS: dict[type[Message], int] = {Request: MAX_REQUEST_BODY, Reply: MAX_REPLY_BODY}
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type[Message], msgspec.msgpack.Decoder[Any]] = {
    of: msgspec.msgpack.Decoder(of, ext_hook=_refuse_extension) for of in MESSAGE_TYPES.values()
}
