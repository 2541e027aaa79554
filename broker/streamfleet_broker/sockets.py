"""How the broker's sockets are made: options with their reasons, keys, and addresses with clear errors."""

from __future__ import annotations

import errno

import zmq

from streamfleet_broker.errors import CannotBind
from streamfleet_broker.protocol.control import MAX_BODY
from streamfleet_broker.supply import KeyPair

Socket = zmq.Socket[bytes]

MAX_DATA = 4 * 1_048_576  # bytes a frame; a larger one cuts its sender off

_COMMON: dict[int, int] = {
    zmq.LINGER: 0,
    zmq.IPV6: 1,
    zmq.BACKLOG: 1024,
    zmq.HANDSHAKE_IVL: 5000,  # ms; half-open connections hold a descriptor for so long
    zmq.HEARTBEAT_IVL: 2000,  # ms; without them a partition is never noticed
    zmq.HEARTBEAT_TIMEOUT: 6000,
    zmq.HEARTBEAT_TTL: 6000,
    zmq.TCP_KEEPALIVE: 1,
}
CONTROL_OPTIONS = _COMMON | {
    zmq.SNDHWM: 32,  # messages a peer: what does not fit is sent anew, later
    zmq.RCVHWM: 1000,
    zmq.MAXMSGSIZE: MAX_BODY,
    zmq.ROUTER_MANDATORY: 1,  # or messages to nobody vanish without a word
}
OPERATOR_OPTIONS = CONTROL_OPTIONS | {
    zmq.SNDHWM: 1000,  # one peer is an api with many clients: all that it asks at once is answered
}
DATA_OPTIONS = _COMMON | {
    zmq.SNDHWM: 200,  # messages a subscriber: a slow one loses its own, and holds up nobody
    zmq.RCVHWM: 1000,
    zmq.MAXMSGSIZE: MAX_DATA,
}
PICTURE_OPTIONS = DATA_OPTIONS | {
    zmq.SNDHWM: 4,  # an old picture is worth nothing: who is slow sees fewer, and not late ones
    zmq.RCVHWM: 4,
}


def configure(socket: Socket, options: dict[int, int]) -> None:
    """Set options, before the socket is bound or connected."""
    for option, value in options.items():
        socket.setsockopt(option, value)


def secure(socket: Socket, keys: KeyPair, domain: str) -> None:
    """Make it a CURVE server whose clients are asked for in a ZAP domain."""
    socket.curve_server = True
    socket.curve_secretkey = keys.secret.encode("ascii")
    socket.zap_domain = domain.encode("ascii")
    # Otherwise a context without a handler would let everybody in.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def bind(socket: Socket, endpoint: str, option: str) -> str:
    """Listen, and return the endpoint with its real port. Raises: CannotBind, naming the option."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as exc:
        reason = "the port is taken" if exc.errno == errno.EADDRINUSE else str(exc.strerror)
        raise CannotBind(option, endpoint, reason) from exc
    return socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode("ascii")  # type: ignore[union-attr]


def tcp(host: str, port: int) -> str:
    """The endpoint of a host; port 0 is any port that is free."""
    name = f"[{host}]" if ":" in host else host
    return f"tcp://{name}:{port or '*'}"


def port_of(endpoint: str) -> int:
    """The port of a bound endpoint."""
    return int(endpoint.rpartition(":")[2])
