"""Who may connect to the device's own PUB socket: the ZAP handler of ZeroMQ RFC 27, with keys in memory only.

Until it answers nobody gets in, so it fails closed.
"""

from __future__ import annotations

import zmq

from streamfleet_core.peers.allow_list import PENALTY, AllowList
from streamfleet_core.runtime.curve import zap_socket


class ZapHandler:
    """Lets in the keys of one domain. Whoever polls `socket` calls `answer` when it is readable."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], domain: str) -> None:
        self.allow_list = AllowList()
        self.keys: frozenset[str] = frozenset()  # in Z85
        self._domain = domain
        self.socket = zap_socket(context)

    def allow(self, keys: frozenset[str]) -> None:
        """Let exactly these in from now on."""
        self.keys = keys
        self.allow_list.set(self._domain, keys)

    def keep_out(self, key: str) -> None:
        """A key broke a rule."""
        self.allow_list.keep_out(key, PENALTY)

    def answer(self) -> None:
        """Answer one request of libzmq, if there is one."""
        try:
            routing_id, delimiter, *request = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self.socket.send_multipart([routing_id, delimiter, *self.allow_list.answer(request)])

    def close(self) -> None:
        """Let nobody in any more."""
        self.socket.close()
