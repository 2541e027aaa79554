"""What FFmpeg's errors mean, in one word and for users. Where they do not tell, `url_diagnosis` does."""

from __future__ import annotations

import os

import av

from streamfleet_core.protocol.status import SourceCause
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.url_diagnosis import Address, diagnose

# Causes that follow from FFmpeg's error alone.
_CAUSES: dict[type[Exception], tuple[SourceCause, str]] = {
    av.error.ConnectionRefusedError: ("refused", "connection refused"),
    av.error.HTTPForbiddenError: ("authentication", "access is denied (403 Forbidden)"),
    av.error.HTTPNotFoundError: ("not_found", "there is nothing under this path (404 Not Found)"),
    av.error.HTTPBadRequestError: ("invalid", "the server refuses the request (400 Bad Request)"),
    av.error.HTTPTooManyRequestsError: (
        "unreachable",
        "the server cannot serve it now (429 Too Many Requests)",
    ),
    av.error.ProtocolNotFoundError: ("invalid", "FFmpeg does not speak this protocol here"),
}


def diagnose_error(address: Address, exc: Exception) -> SourceLost:
    """Find the cause: from FFmpeg's error where it is specific, otherwise by asking the server."""
    for kind, (cause, why) in _CAUSES.items():
        if isinstance(exc, kind):
            return address.lost(cause, why)
    if isinstance(exc, av.error.HTTPUnauthorizedError):
        if not address.has_login:
            return address.lost("authentication", "it wants a user and a password, the address has none")
        return diagnose(address) or address.lost("authentication", "the user or the password is wrong")
    if isinstance(exc, av.error.OSError):
        return diagnose(address) or address.lost("unreachable", strerror(exc).lower())
    why = "it answers, but gives nothing that can be decoded"
    return diagnose(address) or address.lost("codec", why)


def strerror(exc: Exception) -> str:
    """The text of an error without the address, which may contain credentials."""
    said = exc.strerror if isinstance(exc, av.FFmpegError) else None
    return said or os.strerror(5)
