"""A SUB socket on the broker's relay, and the order that its messages must keep."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
import zmq
import zmq.asyncio

from streamfleet_api.link import CurveKeys
from streamfleet_broker.protocol.data import MAX_BODY

# All that msgpack, msgspec and json may raise for bytes from a peer.
UNREADABLE = (ValueError, TypeError, RecursionError, msgpack.UnpackException)
FORGET = 10.0  # seconds of silence after which a subject may begin anew, from any key

Key = tuple[int, int, int]  # (gen, inc, seq)


def subscriber(context: zmq.asyncio.Context, endpoint: str, keys: CurveKeys | None) -> zmq.asyncio.Socket:
    """A socket that connects, and connects again, to the relay; it has no subscription yet."""
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    socket.rcvhwm = 1000
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
