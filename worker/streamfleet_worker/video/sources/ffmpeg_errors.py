"""What FFmpeg's errors mean, in one word and for users. Where they do not tell, `url_diagnosis` does."""

from __future__ import annotations

import os

import av

from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.url_diagnosis import Address, Answer, diagnose, diagnose_answer

_STATUSES: dict[type[Exception], int] = {
    av.error.HTTPBadRequestError: 400,
    av.error.HTTPForbiddenError: 403,
    av.error.HTTPNotFoundError: 404,
    av.error.HTTPTooManyRequestsError: 429,
}


def diagnose_error(address: Address, exc: Exception) -> SourceLost:
    """Find the cause: from FFmpeg's error where it is specific, otherwise by asking the server."""
    status = next((status for kind, status in _STATUSES.items() if isinstance(exc, kind)), None)
    if isinstance(exc, av.error.HTTPUnauthorizedError) and not address.has_login:
        status = 401
    meaning = None if status is None else diagnose_answer(address, Answer(status, ()))
    if meaning is not None:
        return meaning
    if isinstance(exc, av.error.HTTPUnauthorizedError):
        return diagnose(address) or address.lost("authentication", "the user or the password is wrong")
    if isinstance(exc, av.error.ConnectionRefusedError):
        return address.lost("refused", "connection refused")
    if isinstance(exc, av.error.ProtocolNotFoundError):
        return address.lost("invalid", "FFmpeg does not speak this protocol here")
    if isinstance(exc, av.error.OSError):
        return diagnose(address) or address.lost("unreachable", strerror(exc).lower())
    why = "it answers, but gives nothing that can be decoded"
    return diagnose(address) or address.lost("codec", why)


def strerror(exc: Exception) -> str:
    """The text of an error without the address, which may contain credentials."""
    said = exc.strerror if isinstance(exc, av.FFmpegError) else None
    return said or os.strerror(5)
