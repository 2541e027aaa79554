"""How messages reach a client: server-sent events, WebSocket, and pictures one after the other.

A transport only says which ASGI messages are to be sent; `stream` sends them, until the client goes, takes
nothing for long, or the api stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from streamfleet_api.audience import Follower
from streamfleet_api.backlog import Message

Piece = dict[str, Any]  # an ASGI message

_BOUNDARY = b"streamfleet"
# A page of somebody else can show no picture of ours.
_OURS_ONLY = (b"cross-origin-resource-policy", b"same-origin")


class Transport(Protocol):
    """What differs between the transports. `ping` is a sign of life, empty where the server sends its own."""

    opening: Sequence[Piece]
    ping: Sequence[Piece]
    closing: Sequence[Piece]

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """The ASGI messages for these."""


def _start(media: bytes, *more: tuple[bytes, bytes]) -> Piece:
    headers = [(b"content-type", media), (b"cache-control", b"no-store"), *more]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _body(content: bytes) -> Piece:
    return {"type": "http.response.body", "body": content, "more_body": True}


_END: Piece = {"type": "http.response.body", "body": b"", "more_body": False}


class Sse:
    """Server-sent events, as the WHATWG's HTML standard has them."""

    opening: Sequence[Piece] = (_start(b"text/event-stream"), _body(b": events follow\n\n"))
    ping: Sequence[Piece] = (_body(b":\n\n"),)
    closing: Sequence[Piece] = (_END,)

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """All in one piece."""
        return (_body(b"".join(message.sse for message in messages)),)


class MixedReplace:
    """JPEGs that replace one another (multipart/x-mixed-replace), which every browser shows as an <img>."""

    opening: Sequence[Piece] = (
        _start(b"multipart/x-mixed-replace; boundary=" + _BOUNDARY, _OURS_ONLY),
        _body(b"--%s\r\n" % _BOUNDARY),
    )
    ping: Sequence[Piece] = ()
    closing: Sequence[Piece] = (_END,)

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """Each with the boundary after it: browsers show a part when the next one begins."""
        return [_body(_part(message)) for message in messages if message.kind == "picture"]


class WebSocket:
    """One message each (RFC 6455): text, of a picture binary. The server itself pings."""

    opening: Sequence[Piece] = ({"type": "websocket.accept"},)
    ping: Sequence[Piece] = ()
    closing: Sequence[Piece] = ({"type": "websocket.close", "code": 1001, "reason": "the api stops"},)

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """One for each message."""
        return [
            {"type": "websocket.send", "bytes": message.data}
            if message.kind == "picture"
            else {"type": "websocket.send", "text": message.text}
            for message in messages
        ]


class Streaming:
    """The endless answer to one client."""

    def __init__(self, following: contextlib.AbstractContextManager[Follower], transport: Transport) -> None:
        self._following = following
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._following as follower:
            if scope.get("method") == "HEAD":
                follower.end()
            await stream(follower, self._transport, receive, send)


async def stream(follower: Follower, transport: Transport, receive: Receive, send: Send) -> None:
    """Write what comes, until one side has enough."""
    gone = asyncio.create_task(_until_gone(receive), name="stream client")
    writing = asyncio.create_task(_write(follower, transport, send), name="stream")
    try:
        with follower.written_by(writing):
            await asyncio.wait({gone, writing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        with contextlib.suppress(asyncio.CancelledError, OSError):  # the client is gone
            await writing


async def _write(follower: Follower, transport: Transport, send: Send) -> None:
    for piece in transport.opening:
        await follower.write(send(piece))
    while True:
        while follower.backlog:
            for piece in transport.pieces(follower.backlog.take()):
                await follower.write(send(piece))
        if follower.ended:
            break
        if follower.ping_due:
            follower.ping_due = False
            for piece in transport.ping:
                await follower.write(send(piece))
        await follower.wait()
    for piece in transport.closing:
        await follower.write(send(piece))


async def _until_gone(receive: Receive) -> None:
    """What a client says is of no interest, but that it goes."""
    while not (await receive())["type"].endswith(".disconnect"):
        pass


def _part(picture: Message) -> bytes:
    head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\nX-Streamfleet-Key: %s\r\n\r\n"
    return b"%s%s\r\n--%s\r\n" % (
        head % (len(picture.data), picture.id.encode()),
        picture.data,
        _BOUNDARY,
    )
