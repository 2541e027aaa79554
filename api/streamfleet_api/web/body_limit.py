"""Limits the body of a request before a handler reads it. (S22)"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamfleet_api.web.problem_details import ErrorAnswer, Problem

MAX_BODY = 1_048_576  # bytes


class Limit:
    """Refuses large and encoded bodies. Handlers below `streamed` limit the size themselves."""

    def __init__(self, app: ASGIApp, *, streamed: tuple[str, ...], answer: ErrorAnswer) -> None:
        self._app = app
        self._streamed = streamed
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._answer(Request(scope), refusal)(scope, receive, send)
        elif scope["path"].startswith(self._streamed):
            await self._app(scope, receive, send)
        else:
            await self._app(scope, _measured(receive), send)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        encoding = ", ".join(headers.getlist("content-encoding")) or "identity"
        if encoding.lower() != "identity":
            return Problem(415, f"expected a body without Content-Encoding, got {encoding[:32]!r}")
        length = headers.get("content-length", "0")
        if not scope["path"].startswith(self._streamed) and int(length) > MAX_BODY:
            return _too_large()
        return None


def _measured(receive: Receive) -> Receive:
    taken = 0

    async def measured() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY:
            raise _too_large()
        return message

    return measured


def _too_large() -> Problem:
    return Problem(413, f"expected a body of at most {MAX_BODY} bytes, it is larger")
