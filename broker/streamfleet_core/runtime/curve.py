"""CURVE on sockets: clients with their keys, and servers that ask a ZAP handler which clients may connect.

CURVE is ZeroMQ RFC 26, ZAP is RFC 27. `peers.allow_list` decides, with the keys in memory only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import zmq

from streamfleet_core.protocol.json_text import decode_json
from streamfleet_core.protocol.values import KeyPair

ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # libzmq sends ZAP requests here, within a context

Socket = TypeVar("Socket", bound="zmq.Socket[Any]")


def new_key_pair() -> KeyPair:
    """Make a key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def public_of(secret: str) -> str:
    """The public half of a secret key. Raises: ZMQError, UnicodeEncodeError if it is not a key."""
    return zmq.curve_public(secret.encode("ascii")).decode("ascii")


def parse_key_pair(content: bytes) -> KeyPair:
    """Parse a file of the broker: `{"public": …, "secret": …}` in Z85.

    Raises: ValueError, whose text and cause hold no secret.
    """
    plain = decode_json(content, dict[str, str])
    try:
        pair = KeyPair(plain["public"], plain["secret"])
        public = public_of(pair.secret)
    except (KeyError, ValueError, zmq.ZMQError) as exc:
        raise ValueError(f"got something else ({type(exc).__name__})") from None
    if public != pair.public:
        raise ValueError("its public half belongs to another secret half")
    return pair


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """The keys of a client: the server's public key, and its own pair."""

    server: str
    own: KeyPair

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Make the socket a client. Call it before it connects. Raises: ZMQError, UnicodeEncodeError."""
        socket.curve_serverkey = self.server.encode("ascii")
        socket.curve_publickey = self.own.public.encode("ascii")
        socket.curve_secretkey = self.own.secret.encode("ascii")


def serve(socket: zmq.Socket[Any], secret: str, domain: str) -> None:
    """Make the socket a server whose clients are checked in a ZAP domain. Call it before it binds."""
    socket.curve_server = True
    socket.curve_secretkey = secret.encode("ascii")
    socket.zap_domain = domain.encode("ascii")
    # Without this, a context without a ZAP handler would accept all clients.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def zap_socket(context: zmq.Context[Socket]) -> Socket:
    """Bind the socket for ZAP requests. Bind it before the servers of the context, so that none is open."""
    # ROUTER instead of REP: a request without a reply does not block the requests after it.
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.bind(ZAP_ENDPOINT)
    return socket
