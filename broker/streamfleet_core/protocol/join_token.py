"""The join token: one line with which one new device can connect to the broker and enrol, once.

The token contains a one-time CURVE secret key. The handshake proves that the device has it, so the secret is
never sent; and the broker is authenticated, as its public key is in the token, before anything is sent.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Annotated

import msgpack
import msgspec
from msgspec import Meta

from streamfleet_core.protocol.errors import BadToken
from streamfleet_core.protocol.values import CurveKey, Fingerprint, Id, from_plain, to_plain

PREFIX = "sf1."


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """The data that a new device needs to enrol."""

    device: Id
    endpoints: Annotated[tuple[str, ...], Meta(min_length=1)]  # of the ROUTER for devices
    broker_key: CurveKey  # public
    secret_key: CurveKey  # one-time
    api_fingerprint: Fingerprint = ""  # of the API's certificate; "" if it has none

    def encode(self) -> str:
        """Encode the token as one line."""
        content: bytes = msgpack.packb(to_plain(self))
        checked = zlib.crc32(content).to_bytes(4, "big") + content
        return PREFIX + base64.urlsafe_b64encode(checked).decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, line: str) -> JoinToken:
        """Decode a line. Raises: BadToken."""
        line = line.strip()
        if not line.startswith(PREFIX):
            raise BadToken(f"it begins with {line[:4]!r}")
        text = line.removeprefix(PREFIX)
        try:
            checked = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as exc:
            raise BadToken("it has characters that no token has") from exc
        if checked[:4] != zlib.crc32(checked[4:]).to_bytes(4, "big"):
            raise BadToken("its checksum is wrong, part of it is missing or mistyped")
        try:
            return from_plain(msgpack.unpackb(checked[4:]), cls)
        except (msgspec.ValidationError, ValueError) as exc:
            raise BadToken(f"its content is wrong ({exc})") from exc
