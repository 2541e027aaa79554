"""What a failure of httpx means."""

from __future__ import annotations

import httpx

from streamfleet.connection import Connection, is_certificate_failure
from streamfleet.errors import Unreachable
from streamfleet_core.protocol.source_reference import redacted

# With these a request has not left this machine, so that any may be made again.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_HOPELESS = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


def is_final(exc: Exception) -> bool:
    """Whether another attempt would fail in the same way."""
    return isinstance(exc, _HOPELESS) or is_certificate_failure(exc)


def was_sent(exc: Exception) -> bool:
    """Whether the request may have reached the server."""
    return not isinstance(exc, (*_NEVER_SENT, *_HOPELESS))


def unreachable(connection: Connection, why: Exception | str) -> Unreachable:
    """The error for a request that got no answer, without what is secret in its address."""
    text = redacted(str(why)) or type(why).__name__
    if isinstance(why, Exception) and is_certificate_failure(why):
        text += "; give the fingerprint, which 'streamfleet up' prints, or a CA file"
    sent = not isinstance(why, Exception) or was_sent(why)
    return Unreachable(f"cannot reach {connection.shown}: {text}", was_sent=sent)
