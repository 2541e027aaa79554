"""HTTP/1.1, parsed in C, with bounds to the size and time of a head and to the time of a body. (S22, S24)

connected ──head within 10 s──▶ busy ──answered──▶ idle, 5 s ──▶ closed
                                 └──body: 4 kB within 30 s, again and again
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from streamfleet_api.web.access_policy import address_of
from streamfleet_api.web.connections import Connections, Slot
from streamfleet_core.protocol.rates import Bucket, Rate

logger = logging.getLogger(__name__)

MAX_HEAD = 65_536  # bytes, give or take what arrives at once; also of what frames a body between two pieces
MAX_FIELDS = 100  # of a head: each costs a call, and is looked at again and again
MAX_UNANSWERED = 32  # requests of a connection: each takes memory, and thousands are read at once
MANY_PIECES = 1000  # of a body; beyond these they must have so many bytes on average:
SMALL_PIECE = 32  # bytes: each piece costs a call
# What a WebSocket may bring. Streams read nothing from their clients, which send pings, pongs and a close. A
# frame may have six bytes, and costs the loop ten microseconds.
WEBSOCKET_BYTES = Rate(16 * 1024, 128 * 1024)
WEBSOCKET_FRAMES = Rate(20, 100)
_SLICE = 1024  # bytes that are parsed before their frames are counted
MAX_UNREAD = 4 * 1024**2  # bytes that wait for a client of a WebSocket which asks for more: a few pictures


def _last_words(status: str, text: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\n"
    return f"{head}connection: close\r\n\r\n{text}".encode()


_TOO_LONG = _last_words("431 Request Header Fields Too Large", "The head is too long")
_TOO_EARLY = _last_words("400 Bad Request", "A WebSocket cannot start before the last request is answered")
_TOO_SMALL = _last_words("400 Bad Request", "The pieces of the body are too small")
_TOO_SLOW = _last_words("408 Request Timeout", "The request takes too long")


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket, upgraded from a request. A client that sends too much is closed with 1008."""

    slot: Slot

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bytes = Bucket(WEBSOCKET_BYTES)
        self._frames = Bucket(WEBSOCKET_FRAMES)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.slot.close()

    def data_received(self, data: bytes) -> None:
        if not self._bytes.take(len(data), self.loop.time()):
            self._refuse(f"more than {WEBSOCKET_BYTES.each_second:g} bytes a second")
            return
        for start in range(0, len(data), _SLICE):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _SLICE])

    def handle_events(self) -> None:
        if not self.handshake_initiated or self._frames.take(len(self.conn.events), self.loop.time()):
            super().handle_events()
        else:
            self._refuse(f"more than {WEBSOCKET_FRAMES.each_second:g} frames a second")

    def _refuse(self, reason: str) -> None:
        """Close with 1008. What is not parsed yet is dropped."""
        peer = self.client[0] if self.client else "unknown"
        logger.warning("%s: a WebSocket client is disconnected, it sends %s", peer, reason)
        if self.handshake_complete and not self.close_sent:
            self.conn.fail(CloseCode.POLICY_VIOLATION, reason)
            self.handle_parser_exception()
        else:  # there is no WebSocket yet, or no more
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            self.frames = []
            self.conn.send_close(CloseCode.INVALID_DATA)
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    async def send(self, message: ASGISendEvent) -> None:
        if self.handshake_complete and self.close_sent:  # for uvicorn that is an error of ours
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # by a refusal: otherwise uvicorn logs an error of ours

    def handle_ping(self) -> None:
        """Answer a ping. Disconnect a client that pings without reading, before answers fill the memory."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD:
            self.transport.abort()


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    slot: Slot

    def __init__(self, connections: Connections, slot: Slot | None = None, **options: Any) -> None:
        """`slot`: its place, when it has one before it is made."""
        super().__init__(**options)
        self._connections = connections
        self._limits = connections.limits
        self._given = slot
        self._framing = (
            0  # bytes since the last progress: a new request, a complete head, or a piece of a body
        )
        self._has_moved = False  # whether the last bytes made such progress
        self._is_head = False  # is one under way?
        self._pieces = 0  # of the body that is under way
        self._size = 0  # bytes of these
        # Of the requests whose head has come; what becomes a WebSocket has the one before it.
        self._unanswered: deque[RequestResponseCycle | None] = deque()
        self._has_body = False  # the body of the last one is under way
        self._body = 0  # bytes of it since the timer began
        self._timer: asyncio.TimerHandle | None = None  # for what the client has to send
        self._unread: asyncio.TimerHandle | None = None  # for what it has to read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = self.client[0] if self.client else None
        self.slot = self._given or self._connections.open(address_of(peer), self._drop)
        if not self.slot.is_open:
            transport.abort()
            return
        self.slot.drop = self._drop
        self._expect(self._limits.head, self._disconnect)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._expect_nothing()
        self._expect_no_reading()
        self._tell_unanswered()
        self.slot.close()

    def pause_writing(self) -> None:
        """The client does not read: it may make room for another, and has a limited time."""
        super().pause_writing()
        self.slot.idle()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._expect_no_reading()
        if self._unanswered:
            self.slot.busy()

    def data_received(self, data: bytes) -> None:
        self._has_moved = False
        super().data_received(data)
        self._framing = 0 if self._has_moved else self._framing + len(data)
        if self._framing > MAX_HEAD and not self.transport.is_closing():
            if self._is_unanswered():
                self.transport.write(_TOO_LONG)
            self._close()
        if self.transport.is_closing():
            self._tell_unanswered()
        elif self._timer is None:
            self._expect_more()

    def on_message_begin(self) -> None:
        if len(self._unanswered) >= MAX_UNANSWERED:
            self._close()
            raise ValueError("refused")
        self._is_head = self._has_moved = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_head:  # a trailer, which is ignored
            return
        if len(self.headers) >= MAX_FIELDS:
            self._refuse(_TOO_LONG)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_head = False
        self._has_moved = True
        self._has_body = True
        self._pieces = self._size = 0
        self._expect_nothing()
        self.slot.busy()
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._pieces += 1
        self._size += len(body)
        if self._pieces > MANY_PIECES and self._size < SMALL_PIECE * self._pieces:
            self._refuse(_TOO_SMALL)
        self._has_moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_body = False
        self._expect_nothing()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unanswered.popleft()
        if not self._unanswered:
            self.slot.idle()
            if self._has_body:  # it is no longer read
                self._expect(self._limits.head, self._close)
        if self.transport.is_closing():
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reading()

    def handle_websocket_upgrade(self) -> None:
        self._expect_nothing()
        self._expect_no_reading()
        if any(cycle is not None and not cycle.response_complete for cycle in self._unanswered):
            if self._is_unanswered():
                self.transport.write(_TOO_EARLY)
            self._close()
            return
        super().handle_websocket_upgrade()
        websocket = self.transport.get_protocol()
        assert isinstance(websocket, BoundedWebSocket)
        websocket.slot = self.slot

    def _expect_more(self) -> None:
        """There is something under way that has no time limit yet."""
        if not self._unanswered:
            self._expect(self._limits.head, self._disconnect)
        elif self._has_body:
            self._body = 0
            self._expect(self._limits.body, self._check_body)

    def _check_body(self) -> None:
        self._timer = None
        if self._body >= self._limits.piece or self.flow.read_paused:
            self._expect_more()
        else:
            self._disconnect()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():  # otherwise it was refused already
            super().send_400_response(msg)

    def _refuse(self, words: bytes) -> None:
        """Close, and stop the parser, which calls us for each field and piece. Raises: ValueError, for it."""
        if self._is_unanswered():
            self.transport.write(words)
        self._close()
        raise ValueError("refused")

    def _disconnect(self) -> None:
        """Say so to a client that was not answered yet."""
        if self._is_unanswered():
            self.transport.write(_TOO_SLOW)
        self._close()

    def _is_unanswered(self) -> bool:
        """Whether an error response can be sent without breaking a response in progress."""
        return self.cycle is None or self.cycle.response_complete or not self.cycle.response_started

    def _close(self) -> None:
        self.transport.close()
        self._expect_reading()
        self._tell_unanswered()

    def _drop(self) -> None:
        """Make room for another, at once also when the client does not read."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        self._close()

    def _expect_reading(self) -> None:
        """Abort the connection if the client does not read in time: closing waits until it has read."""
        if self._unread is None and self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(self._limits.body, self.transport.abort)

    def _expect_no_reading(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _tell_unanswered(self) -> None:
        """Cancel handlers that still respond: they would fail on the closed connection and log it."""
        for cycle in self._unanswered:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True

    def _expect(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._expect_nothing()
        self._timer = self.loop.call_later(seconds, otherwise)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
