"""Errors of the fleet's own routes: RFC 9457 problem details."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClientError, BrokerUnreachable, Refused
from streamfleet_api.web.json_codec import render

_STATUS: dict[str, int] = {
    "not_found": 404,
    "invalid": 422,
    "conflict": 409,
    "mismatch": 422,
    "unavailable": 503,
    "too_many": 429,
    "store_down": 503,
    "bad_message": 400,
    "not_leader": 503,
}


# What answers a request that failed, in the shape of the family whose route was asked.
ErrorAnswer = Callable[[HTTPConnection, Exception], Response]


class Problem(Exception):
    """A request that had no effect, and why: the answer is made of it."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: BrokerClientError) -> Problem:
        """Map an error of the broker client to a status."""
        if isinstance(error, Refused):
            return cls(_STATUS[error.code], error.message)
        if isinstance(error, BrokerUnreachable):
            return cls(503, f"{error}; a change may or may not have happened", headers={"retry-after": "1"})
        return cls(502, str(error))

    def response(self, **extra: Any) -> Response:
        """The answer; `extra` are members of the problem's own."""
        title = HTTPStatus(self.status).phrase
        content = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            **extra,
        }
        return Response(render(content), self.status, self.headers, "application/problem+json")


def of_disk(error: OSError) -> Exception:
    """Map an error of the disk: a full disk is a 507 for the operator, others are unexpected."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(507, "no room for it on the disk of the api")
    return error
