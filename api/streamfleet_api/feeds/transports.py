"""Transports of messages: server-sent events, WebSocket, and a sequence of JPEGs.

A transport only produces ASGI messages. `stream` sends them until the client disconnects or is stuck, or the
api stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from streamfleet_api.feeds.send_queue import Message
from streamfleet_api.feeds.subscribers import Subscriber

Piece = dict[str, Any]  # an ASGI message

_BOUNDARY = b"streamfleet"
# Pages of other origins must not embed our previews.
_OURS_ONLY = (b"cross-origin-resource-policy", b"same-origin")


class Transport(Protocol):
    """The interface of a transport. `ping` is a keep-alive, empty if the server sends its own."""

    opening: Sequence[Piece]
    ping: Sequence[Piece]
    closing: Sequence[Piece]

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """The ASGI messages for these messages."""


def _start(media: bytes, *more: tuple[bytes, bytes]) -> Piece:
    headers = [(b"content-type", media), (b"cache-control", b"no-store"), *more]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _body(content: bytes) -> Piece:
    return {"type": "http.response.body", "body": content, "more_body": True}


_END: Piece = {"type": "http.response.body", "body": b"", "more_body": False}


class Sse:
    """Server-sent events, as in the WHATWG HTML standard."""

    opening: Sequence[Piece] = (_start(b"text/event-stream"), _body(b": events follow\n\n"))
    ping: Sequence[Piece] = (_body(b":\n\n"),)
    closing: Sequence[Piece] = (_END,)

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """One ASGI message for all."""
        return (_body(b"".join(message.sse for message in messages)),)


class MixedReplace:
    """JPEGs that replace one another (multipart/x-mixed-replace). Every browser shows them in an <img>."""

    opening: Sequence[Piece] = (
        _start(b"multipart/x-mixed-replace; boundary=" + _BOUNDARY, _OURS_ONLY),
        _body(b"--%s\r\n" % _BOUNDARY),
    )
    ping: Sequence[Piece] = ()
    closing: Sequence[Piece] = (_END,)

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """Each with the boundary after it: browsers show a part once the next one starts."""
        return [_body(_part(message)) for message in messages if message.kind == "preview"]


class WebSocket:
    """One WebSocket message each (RFC 6455): text, or binary for a preview. The server itself pings."""

    opening: Sequence[Piece] = ({"type": "websocket.accept"},)
    ping: Sequence[Piece] = ()
    closing: Sequence[Piece] = ({"type": "websocket.close", "code": 1001, "reason": "the api stops"},)

    def pieces(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """One ASGI message per message."""
        return [
            {"type": "websocket.send", "bytes": message.data}
            if message.kind == "preview"
            else {"type": "websocket.send", "text": message.text}
            for message in messages
        ]


class Streaming:
    """The endless response to one client."""

    def __init__(
        self, subscription: contextlib.AbstractContextManager[Subscriber], transport: Transport
    ) -> None:
        self._subscription = subscription
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "HEAD":  # the head alone, without a subscription
            for piece in (*self._transport.opening, *self._transport.closing):
                await send(piece)
            return
        with self._subscription as subscriber:
            await stream(subscriber, self._transport, receive, send)


async def stream(subscriber: Subscriber, transport: Transport, receive: Receive, send: Send) -> None:
    """Write messages until the client disconnects or the stream ends."""
    gone = asyncio.create_task(_until_gone(receive), name="stream client")
    writing = asyncio.create_task(_write(subscriber, transport, send), name="stream")
    try:
        with subscriber.written_by(writing):
            await asyncio.wait({gone, writing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        with contextlib.suppress(asyncio.CancelledError, OSError):  # the client is gone
            await writing


async def _write(subscriber: Subscriber, transport: Transport, send: Send) -> None:
    for piece in transport.opening:
        await subscriber.write(send(piece))
    while True:
        while subscriber.queue:
            for piece in transport.pieces(subscriber.take()):
                await subscriber.write(send(piece))
        if subscriber.ended:
            break
        if subscriber.ping_due:
            subscriber.ping_due = False
            for piece in transport.ping:
                await subscriber.write(send(piece))
        await subscriber.wait()
    for piece in transport.closing:
        await subscriber.write(send(piece))


async def _until_gone(receive: Receive) -> None:
    """Wait until the client disconnects, and ignore what it sends."""
    while not (await receive())["type"].endswith(".disconnect"):
        pass


def _part(preview: Message) -> bytes:
    head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\nX-Streamfleet-Key: %s\r\n\r\n"
    return b"%s%s\r\n--%s\r\n" % (
        head % (len(preview.data), preview.id.encode()),
        preview.data,
        _BOUNDARY,
    )
