"""The frames of the Stream Manager's protocol: a length of four bytes, big-endian, then UTF-8 JSON.

Pure: takes bytes, returns a payload or raises an error. The result does not depend on how the bytes arrive.

    header --4 bytes--> payload --its length--> complete; further bytes are ignored
"""

from __future__ import annotations

import struct

from streamfleet_api.web.json_codec import BadJson, parse_leniently

MAX_PAYLOAD = 1_048_576  # bytes of one request
_HEADER = struct.Struct(">I")
# The first bytes of HTTP, by its methods.
_HTTP = {b"GET ", b"HEAD", b"POST", b"PUT ", b"PATC", b"DELE", b"OPTI", b"CONN", b"TRAC", b"PRI "}


class BadFrame(Exception):
    """Bytes that are not a request, with Roboflow's error type, class and text."""

    def __init__(self, error_type: str, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.error_class = error_class


class Frame:
    """One frame that arrives in any number of pieces."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._size: int | None = None  # of the payload, once the header is there

    def feed(self, piece: bytes) -> bytes | None:
        """Add bytes, and return the payload once it is complete. Raises: BadFrame."""
        self._received += piece
        if self._size is None:
            if len(self._received) < _HEADER.size:
                return None
            self._size = _size_in(self._received)
        end = _HEADER.size + self._size
        return bytes(self._received[_HEADER.size : end]) if len(self._received) >= end else None

    @property
    def missing(self) -> BadFrame:
        """The error for a frame that ends here."""
        if self._size is None:
            text = f"Expected header size: {_HEADER.size}, received: {bytes(self._received)!r}"
            return BadFrame("internal_error", "MalformedHeaderError", text)
        text = f"Expected payload size: {self._size}, received: {len(self._received) - _HEADER.size}"
        return BadFrame("internal_error", "TransmissionChannelClosed", text)


def _size_in(got: bytearray) -> int:
    (size,) = _HEADER.unpack_from(got)
    if size == 0:
        text = f"Header is indicating non positive payload size: {size}"
        raise BadFrame("internal_error", "MalformedHeaderError", text)
    if bytes(got[: _HEADER.size]) in _HTTP:
        text = (
            "this looks like HTTP, but this port speaks the Stream Manager's own protocol: a length of four "
            "bytes, then JSON; HTTP is on the api's own port, 8080 unless --port says otherwise"
        )
        raise BadFrame("invalid_payload", "MessageToBigError", text)
    if size > MAX_PAYLOAD:
        text = f"expected a payload of at most {MAX_PAYLOAD} bytes, the header says {size}"
        raise BadFrame("invalid_payload", "MessageToBigError", text)
    return int(size)


def framed(payload: bytes) -> bytes:
    """A payload with its header."""
    return _HEADER.pack(len(payload)) + payload


def command_in(payload: bytes) -> dict[str, object]:
    """Parse the command in a payload. Raises: BadFrame."""
    try:
        value = parse_leniently(payload)
    except BadJson as exc:
        text = f"Received payload that is not in a JSON format: {exc}"
        raise BadFrame("invalid_payload", "MalformedPayloadError", text) from exc
    if not isinstance(value, dict):
        text = f"expected a JSON object, got {type(value).__name__}"
        raise BadFrame("internal_error", "TypeError", text)
    return value
