"""The ZAP handler (ZeroMQ RFC 27) for the device's own PUB socket. Keys are in memory only.

No client is accepted until it answers, so it fails closed.
"""

from __future__ import annotations

import zmq

from streamfleet_core.peers.allow_list import PENALTY, AllowList
from streamfleet_core.runtime.curve import zap_socket


class ZapHandler:
    """Accepts the keys of one domain. The owner polls `socket`, and calls `answer` when it is readable."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], domain: str) -> None:
        self.allow_list = AllowList()
        self.keys: frozenset[str] = frozenset()  # in Z85
        self._domain = domain
        self.socket = zap_socket(context)

    def allow(self, keys: frozenset[str]) -> None:
        """Replace the allowed keys."""
        self.keys = keys
        self.allow_list.set(self._domain, keys)

    def keep_out(self, key: str) -> None:
        """Refuse a key that broke a rule, for a while."""
        self.allow_list.keep_out(key, PENALTY)

    def answer(self) -> None:
        """Answer one request of libzmq, if there is one."""
        try:
            routing_id, delimiter, *request = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self.socket.send_multipart([routing_id, delimiter, *self.allow_list.answer(request)])

    def close(self) -> None:
        """Close the socket: no more clients are accepted."""
        self.socket.close()
