"""Convert errors of httpx to errors of this package."""

from __future__ import annotations

import httpx

from streamfleet.connection import Connection, is_certificate_failure
from streamfleet.errors import Unreachable
from streamfleet_core.protocol.source_reference import redacted

# After these errors no request has left this machine, so any request may be repeated.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_PERMANENT = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


def is_final(exc: Exception) -> bool:
    """Return whether another attempt would fail in the same way."""
    return isinstance(exc, _PERMANENT) or is_certificate_failure(exc)


def was_sent(exc: Exception) -> bool:
    """Return whether the request may have reached the server."""
    return not isinstance(exc, (*_NEVER_SENT, *_PERMANENT))


def unreachable(connection: Connection, why: Exception | str) -> Unreachable:
    """Return the error for a request without a response, with the secrets of its URL removed."""
    text = redacted(str(why)) or type(why).__name__
    if isinstance(why, Exception) and is_certificate_failure(why):
        text += "; give the fingerprint, which 'streamfleet up' prints, or a CA file"
    sent = not isinstance(why, Exception) or was_sent(why)
    return Unreachable(f"cannot reach {connection.shown}: {text}", was_sent=sent)
