"""The frames of the Stream Manager's protocol: four bytes that say how long, big-endian, then UTF-8 JSON.

Pure: bytes in, a payload or an error out. However the bytes are cut into pieces, the outcome is the same.

    header --4 bytes--> payload --as many as it said--> complete; what comes behind is nobody's
"""

from __future__ import annotations

import struct

from streamfleet_api.wire import BadJson, parse

MAX_PAYLOAD = 1_048_576  # bytes of one request
_HEADER = struct.Struct(">I")
# The first bytes of HTTP, by its methods.
_HTTP = {b"GET ", b"HEAD", b"POST", b"PUT ", b"PATC", b"DELE", b"OPTI", b"CONN", b"TRAC", b"PRI "}


class BadFrame(Exception):
    """What came is no request: the original's type of error, its class, and its text."""

    def __init__(self, error_type: str, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.error_class = error_class


class Frame:
    """One frame as it arrives, in as many pieces as it likes."""

    def __init__(self) -> None:
        self._came = bytearray()
        self._size: int | None = None  # of the payload, once the header is there

    def feed(self, piece: bytes) -> bytes | None:
        """The payload when it is complete. Raises: BadFrame."""
        self._came += piece
        if self._size is None:
            if len(self._came) < _HEADER.size:
                return None
            self._size = _size_in(self._came)
        end = _HEADER.size + self._size
        return bytes(self._came[_HEADER.size : end]) if len(self._came) >= end else None

    @property
    def missing(self) -> BadFrame:
        """Why a frame that got no further is none."""
        if self._size is None:
            text = f"Expected header size: {_HEADER.size}, received: {bytes(self._came)!r}"
            return BadFrame("internal_error", "MalformedHeaderError", text)
        text = f"Expected payload size: {self._size}, received: {len(self._came) - _HEADER.size}"
        return BadFrame("internal_error", "TransmissionChannelClosed", text)


def _size_in(came: bytearray) -> int:
    (size,) = _HEADER.unpack_from(came)
    if size == 0:
        text = f"Header is indicating non positive payload size: {size}"
        raise BadFrame("internal_error", "MalformedHeaderError", text)
    if bytes(came[: _HEADER.size]) in _HTTP:
        text = (
            "this looks like HTTP, but this port speaks the Stream Manager's own protocol: four bytes "
            "that say how long, then JSON; HTTP is on the api's own port, 8080 unless --port says otherwise"
        )
        raise BadFrame("invalid_payload", "MessageToBigError", text)
    if size > MAX_PAYLOAD:
        text = f"expected a payload of at most {MAX_PAYLOAD} bytes, the header says {size}"
        raise BadFrame("invalid_payload", "MessageToBigError", text)
    return int(size)


def framed(payload: bytes) -> bytes:
    """A payload behind its header."""
    return _HEADER.pack(len(payload)) + payload


def command_in(payload: bytes) -> dict[str, object]:
    """The command in a payload. Raises: BadFrame."""
    try:
        value = parse(payload)
    except BadJson as exc:
        text = f"Received payload that is not in a JSON format: {exc}"
        raise BadFrame("invalid_payload", "MalformedPayloadError", text) from exc
    if not isinstance(value, dict):
        text = f"expected a JSON object, came {type(value).__name__}"
        raise BadFrame("internal_error", "TypeError", text)
    return value
