"""The frames of the control plane: a header of 36 bytes, a request id, and one msgpack map.

frame 0  magic 2 · major 1 · type 1 · broker_epoch 8 · session 16 · seq 8   (network order)
frame 1  request id, 16 bytes or empty
frame 2  body, one msgpack map of at most 65 536 bytes (4 MiB in a Request, 16 MiB in a Reply, which may have
         the whole fleet in them)
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec

from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY, MAX_REPLY_BODY, MAX_REQUEST_BODY
from streamfleet_core.protocol.messages import MESSAGE_TYPES, TYPE_CODES, Message, Reply, Request

MAGIC = b"SF"
MAJOR = 1
NO_SESSION = bytes(16)

T = TypeVar("T")

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


def decode(frames: Sequence[bytes], *, raw_data: bool = False) -> Envelope:
    """Decode a message. Raises: BadMessage, and no other exception for any bytes.

    `raw_data`: leave the data of a Reply encoded, for `decode_data`, which knows its type.
    """
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
    decoder = _RAW_REPLIES if raw_data and of is Reply else _DECODERS[of]
    return Envelope(
        _decode_body(body, of, decoder), epoch=epoch, session=session, seq=seq, request_id=request_id
    )


def _limit(of: type[Message]) -> int:
    return _LIMITS.get(of, MAX_CONTROL_BODY)


def decode_data(data: object, of: type[T]) -> T:
    """Decode the data of a Reply that was left encoded. Raises: msgspec.ValidationError, BadMessage."""
    assert isinstance(data, msgspec.Raw)
    try:
        found: T = _decoder_of(of).decode(data)  # type: ignore[arg-type]
        return found
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise BadMessage("msgpack", f"{type(exc).__name__}: {exc}") from exc


@cache
def _decoder_of(of: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(of, ext_hook=_refuse_extension)


def _decode_body(body: bytes, of: type[Message], decoder: msgspec.msgpack.Decoder[Any]) -> Message:
    """Decode a body. Keys that the type does not define are skipped."""
    try:
        message = decoder.decode(body)
        return Reply(message.data) if isinstance(message, _RawReply) else message
    except msgspec.ValidationError as exc:
        raise BadMessage(f"a {of.__name__}", str(exc)) from exc
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise BadMessage("msgpack", f"{type(exc).__name__}: {exc}") from exc


def _refuse_extension(code: int, _data: memoryview) -> Any:
    raise BadMessage("plain msgpack", f"extension type {code}")


class _RawReply(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"\xc0")  # nil, if there is none


_LIMITS: dict[type[Message], int] = {Request: MAX_REQUEST_BODY, Reply: MAX_REPLY_BODY}
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type[Message], msgspec.msgpack.Decoder[Any]] = {
    of: msgspec.msgpack.Decoder(of, ext_hook=_refuse_extension) for of in MESSAGE_TYPES.values()
}
_RAW_REPLIES = msgspec.msgpack.Decoder(_RawReply)
