"""A SUB socket at the broker's relay, and the order of its messages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import zmq
import zmq.asyncio

from streamfleet_api.broker_client import Endpoints
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_DATA_FRAME
from streamfleet_core.runtime.client_socket import configure
from streamfleet_core.runtime.curve import CurveKeys

logger = logging.getLogger(__name__)

# Everything that msgspec and json can raise for bytes of a peer.
UNREADABLE = (ValueError, TypeError, RecursionError, msgspec.MsgspecError)
LOG_INTERVAL = 10.0  # seconds between two log lines about dropped messages
_AT_ONCE = 256  # messages in a row, before other tasks get their turn
_TURN = 0.005  # seconds in a row, likewise
FORGET = 10.0  # seconds of silence after which a subject may restart from any key

Key = tuple[int, int, int]  # (gen, inc, seq)


def sub_socket(
    context: zmq.asyncio.Context, endpoints: Endpoints, keys: CurveKeys | None, *, waiting: int = 1000
) -> zmq.asyncio.Socket:
    """A socket that connects to all these relays and reconnects. It has no subscription yet.

    Beyond `waiting` queued messages, the newest are dropped.
    """
    socket = context.socket(zmq.SUB)
    configure(socket, largest=MAX_DATA_FRAME)  # as everywhere: what one hop lets through, no other cuts off
    socket.rcvhwm = waiting
    if keys is not None:
        keys.apply(socket)
    for endpoint in [endpoints] if isinstance(endpoints, str) else endpoints:
        socket.connect(endpoint)
    return socket


async def received(socket: zmq.asyncio.Socket) -> AsyncIterator[list[bytes]]:
    """Yield the messages of a socket, without end.

    Messages that already wait are taken without the event loop, at a third of the cost. But a busy socket
    must not starve other tasks (pyzmq #1928).
    """
    direct: zmq.Socket[bytes] = zmq.Socket.shadow(socket)
    while True:
        yield await socket.recv_multipart()
        until = time.monotonic() + _TURN
        for _ in range(_AT_ONCE):
            if time.monotonic() > until:
                break
            try:
                frames = direct.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            yield frames
        await asyncio.sleep(0)


@dataclass(slots=True)
class LogThrottle:
    """Logs dropped messages, at most one line per interval, with the total number."""

    _next: float = field(default=float("-inf"))  # monotonic seconds
    _dropped: int = 0

    def log(self, what: str, reason: BadData) -> None:
        """Count a dropped message, and log it if the interval has passed."""
        self._dropped += 1
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOG_INTERVAL
            logger.warning("relay: dropped %s, the %d. by now: %s", what, self._dropped, reason)


def name_of(key: Key) -> str:
    """The name of a message: gen-inc-seq."""
    return "-".join(map(str, key))


@dataclass(slots=True)
class Order:
    """The order of the messages of one subject: only a larger key is accepted, and gaps are counted."""

    key: Key | None = None
    heard: float = 0.0  # when, in monotonic seconds

    def accept(self, key: Key, now: float) -> int | None:
        """The number of messages missing before this one; None if it is outdated and must be dropped."""
        last = self.key
        if last is None or now - self.heard > FORGET:
            self.key, self.heard = key, now
            return 0
        if key <= last:
            return None
        self.key, self.heard = key, now
        return key[2] - last[2] - 1 if key[:2] == last[:2] else 0
