"""Options that all sockets connecting to the broker share."""

from __future__ import annotations

from typing import Any

import zmq

from streamfleet_core.runtime.keepalive import KEEPALIVE


def configure(socket: zmq.Socket[Any], *, largest: int, reconnect: tuple[int, int] = (100, 2000)) -> None:
    """Set the options. Call it before the socket connects.

    Args:
        largest: bytes of the largest frame; a larger one ends the connection.
        reconnect: milliseconds until the first attempt to reconnect, and the most between two attempts.
    """
    socket.linger = 0
    socket.ipv6 = True
    socket.maxmsgsize = largest
    socket.reconnect_ivl, socket.reconnect_ivl_max = reconnect
    for option, value in KEEPALIVE.items():
        socket.setsockopt(option, value)
