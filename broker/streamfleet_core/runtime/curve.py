"""CURVE on sockets: who is a client with which keys, and who is a server that asks ZAP whom to let in.

CURVE is ZeroMQ RFC 26, ZAP is RFC 27. `peers.allow_list` decides, with the keys in memory only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import zmq

from streamfleet_core.protocol.values import KeyPair

ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # where libzmq asks, in the context of the socket that accepts

Socket = TypeVar("Socket", bound="zmq.Socket[Any]")


def new_key_pair() -> KeyPair:
    """Make a key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def public_of(secret: str) -> str:
    """The public half of a secret key. Raises: ZMQError, UnicodeEncodeError where it is no key."""
    return zmq.curve_public(secret.encode("ascii")).decode("ascii")


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """What a client needs: the server's public key, and a pair of its own."""

    server: str
    own: KeyPair

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Make the socket a client, before it connects. Raises: ZMQError, UnicodeEncodeError."""
        socket.curve_serverkey = self.server.encode("ascii")
        socket.curve_publickey = self.own.public.encode("ascii")
        socket.curve_secretkey = self.own.secret.encode("ascii")


def serve(socket: zmq.Socket[Any], secret: str, domain: str) -> None:
    """Make the socket a server, before it binds, whose clients are asked for in a ZAP domain."""
    socket.curve_server = True
    socket.curve_secretkey = secret.encode("ascii")
    socket.zap_domain = domain.encode("ascii")
    # Otherwise a context without a handler would let everybody in.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def zap_socket(context: zmq.Context[Socket]) -> Socket:
    """The socket at which libzmq asks. Bind it before the servers of the context: it fails closed."""
    # A ROUTER and no REP: a request that is left without a reply does not block those that follow.
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.bind(ZAP_ENDPOINT)
    return socket
