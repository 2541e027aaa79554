"""How a row is written: the kind and the key of a record, and its value as msgpack."""

from __future__ import annotations

import msgpack

from streamfleet_broker.fleet.records import KINDS, Record
from streamfleet_core.protocol.values import from_plain, to_plain

Key = tuple[str, str]  # kind and key of a row


def encode(record: Record) -> bytes:
    """Encode the value of a row."""
    value: bytes = msgpack.packb(to_plain(record))
    return value


def decode(kind: str, key: str, value: bytes) -> Record:
    """Decode the record of a row. Raises: ValueError, ValidationError."""
    of = KINDS.get(kind)
    if of is None:
        raise ValueError(f"row {kind}/{key} is of a kind that this version does not know")
    return from_plain(msgpack.unpackb(value), of)
