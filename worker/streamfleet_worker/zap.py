"""Who may connect to the device's own PUB socket: the ZAP handler of ZeroMQ RFC 27, with keys in memory only.

Until it answers nobody gets in, so it fails closed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import zmq
from zmq.utils import z85

logger = logging.getLogger(__name__)

_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"


class Doorkeeper:
    """Lets in the keys of one domain. Whoever polls `socket` calls `answer` when it is readable."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], domain: str) -> None:
        self.keys: frozenset[str] = frozenset()  # in Z85
        self._domain = domain
        # A ROUTER and no REP: a request that is left without a reply does not block those that follow.
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(_ENDPOINT)

    def answer(self) -> None:
        """Answer one request of libzmq, if there is one."""
        try:
            routing_id, delimiter, *request = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self.socket.send_multipart([routing_id, delimiter, *self.decide(request)])

    def decide(self, request: Sequence[bytes]) -> list[bytes]:
        """The reply to a request: version, id, status, text, User-Id, metadata."""
        request_id = request[1] if len(request) > 1 else b""
        if len(request) == 7 and request[0] == _VERSION and request[5] == b"CURVE" and len(request[6]) == 32:
            key = z85.encode(request[6]).decode("ascii")
            if request[2] == self._domain.encode() and key in self.keys:
                return [_VERSION, request_id, b"200", b"OK", key.encode(), b""]
            logger.warning("refused a subscriber with the unknown key %s", key)
        return [_VERSION, request_id, b"400", b"not allowed", b"", b""]

    def close(self) -> None:
        """Let nobody in any more."""
        self.socket.close()
