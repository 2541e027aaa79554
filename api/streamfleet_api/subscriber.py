"""A SUB socket on the broker's relay, and the order that its messages must keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgpack
import zmq
import zmq.asyncio

from streamfleet_api.link import CurveKeys
from streamfleet_broker.protocol.data import MAX_BODY

# All that msgpack, msgspec and json may raise for bytes from a peer.
UNREADABLE = (ValueError, TypeError, RecursionError, msgpack.UnpackException)
_AT_ONCE = 256  # messages, before everything else has its turn
FORGET = 10.0  # seconds of silence after which a subject may begin anew, from any key

Key = tuple[int, int, int]  # (gen, inc, seq)


def subscriber(
    context: zmq.asyncio.Context, endpoint: str, keys: CurveKeys | None, *, waiting: int = 1000
) -> zmq.asyncio.Socket:
    """A socket that connects, and connects again, to the relay; it has no subscription yet.

    When more than `waiting` messages wait in it, the newest are dropped.
    """
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    socket.rcvhwm = waiting
    socket.ipv6 = True
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BODY)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
    if keys is not None:
        keys.apply(socket)
    socket.connect(endpoint)
    return socket


async def received(socket: zmq.asyncio.Socket) -> AsyncIterator[list[bytes]]:
    """The messages of a socket, without end.

    What is there already is taken without asking the event loop, at a third of the cost; yet an always busy
    socket must not starve everything else (pyzmq #1928).
    """
    direct: zmq.Socket[bytes] = zmq.Socket.shadow(socket)
    while True:
        yield await socket.recv_multipart()
        for _ in range(_AT_ONCE):
            try:
                frames = direct.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            yield frames
        await asyncio.sleep(0)


def name_of(key: Key) -> str:
    """gen-inc-seq, by which people and programs name a message."""
    return "-".join(map(str, key))


@dataclass(slots=True)
class Order:
    """The messages of one subject: only a larger key is accepted, and what is missing is counted."""

    key: Key | None = None
    heard: float = 0.0  # when, in monotonic seconds

    def accept(self, key: Key, now: float) -> int | None:
        """How many messages are missing before this one, or None when it is too late and must be dropped."""
        last = self.key
        if last is None or now - self.heard > FORGET:
            self.key, self.heard = key, now
            return 0
        if key <= last:
            return None
        self.key, self.heard = key, now
        return key[2] - last[2] - 1 if key[:2] == last[:2] else 0
