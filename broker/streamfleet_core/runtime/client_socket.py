"""What the sockets of all clients of the broker have in common."""

from __future__ import annotations

from typing import Any

import zmq

from streamfleet_core.runtime.keepalive import KEEPALIVE


def configure(socket: zmq.Socket[Any], *, largest: int, reconnect: tuple[int, int] = (100, 2000)) -> None:
    """Set the options, before the socket connects.

    `largest`: bytes of a frame, after which the connection is cut. `reconnect`: milliseconds until the first
    attempt to connect again, and at most.
    """
    socket.linger = 0
    socket.ipv6 = True
    socket.maxmsgsize = largest
    socket.reconnect_ivl, socket.reconnect_ivl_max = reconnect
    for option, value in KEEPALIVE.items():
        socket.setsockopt(option, value)
