"""Creates the broker's sockets: options with their reasons, keys, and addresses with clear errors."""

from __future__ import annotations

import errno

import zmq

from streamfleet_broker.errors import CannotBind
from streamfleet_core.protocol.limits import (
    CURVE_MARGIN,
    MAX_CONTROL_BODY,
    MAX_DATA_FRAME,
    MAX_REQUEST_BODY,
)
from streamfleet_core.runtime.keepalive import KEEPALIVE

Socket = zmq.Socket[bytes]

HANDSHAKE = 5000  # ms; half-open connections keep a descriptor that long

_COMMON: dict[int, int] = KEEPALIVE | {
    zmq.LINGER: 0,
    zmq.IPV6: 1,
    zmq.BACKLOG: 1024,
    zmq.HANDSHAKE_IVL: HANDSHAKE,
}
CONTROL_OPTIONS = _COMMON | {
    zmq.SNDHWM: 32,  # messages per peer: what does not fit is sent again later
    zmq.RCVHWM: 100,  # messages per peer: ten seconds of the busiest device; a flood waits in its own queue
    zmq.MAXMSGSIZE: MAX_CONTROL_BODY + CURVE_MARGIN,  # bytes; a larger message closes the connection
    zmq.ROUTER_MANDATORY: 1,  # otherwise messages to unknown peers are silently dropped
    zmq.AFFINITY: 1,  # a bit mask: the first I/O thread decrypts for devices
}
OPERATOR_OPTIONS = CONTROL_OPTIONS | {
    zmq.SNDHWM: 1000,  # one peer is an api with many clients and many simultaneous requests
    zmq.RCVHWM: 1000,
    zmq.MAXMSGSIZE: MAX_REQUEST_BODY + CURVE_MARGIN,  # bytes; many pipelines may be applied in one request
    zmq.AFFINITY: 2,  # the second I/O thread is for operators: devices never delay them
}
DATA_OPTIONS = _COMMON | {
    zmq.SNDHWM: 200,  # messages per subscriber: a slow one loses its own, and delays no other
    # Messages per device. libzmq reads half of them in one go and sends nothing meanwhile. So it must be less
    # than the queue of a subscriber, which would overflow at full speed otherwise.
    zmq.RCVHWM: 100,
    zmq.MAXMSGSIZE: MAX_DATA_FRAME,  # bytes, on every hop: a larger message closes the connection
}
PUBLICATION_OPTIONS: dict[int, int] = {
    zmq.SNDHWM: 100_000,  # subscriptions per device: none may be lost, and their number is bounded elsewhere
}
SUBSCRIPTION_OPTIONS: dict[int, int] = {
    # An XPUB receives subscriptions, and the handshake's commands of 300 bytes. libzmq keeps a node for each
    # byte of each topic, and removes topics recursively.
    zmq.MAXMSGSIZE: 512,
    zmq.RCVHWM: 8,  # messages per peer: a flood waits in its own queue until its subscriptions are counted
    zmq.XPUB_MANUAL: 1,
}
PICTURE_OPTIONS = DATA_OPTIONS | {
    zmq.SNDHWM: 4,  # a slow client gets fewer previews instead of late ones
    zmq.RCVHWM: 4,
}


def configure(socket: Socket, options: dict[int, int]) -> None:
    """Set options. Call it before the socket is bound or connected."""
    for option, value in options.items():
        socket.setsockopt(option, value)


def bind(socket: Socket, endpoint: str, option: str) -> str:
    """Listen, and return the endpoint with its real port. Raises: CannotBind, naming the option."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as exc:
        reason = "the port is taken" if exc.errno == errno.EADDRINUSE else str(exc.strerror)
        raise CannotBind(option, endpoint, reason) from exc
    # The path of an ipc endpoint may contain any characters.
    return socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]


def tcp(host: str, port: int) -> str:
    """The endpoint of a host. Port 0 means any free port."""
    name = f"[{host}]" if ":" in host else host
    return f"tcp://{name}:{port or '*'}"


def port_of(endpoint: str) -> int:
    """The port of a bound endpoint."""
    return int(endpoint.rpartition(":")[2])
