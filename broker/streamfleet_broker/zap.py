"""Who may connect: the ZAP handler of ZeroMQ RFC 27, with lists of CURVE keys held in memory only.

libzmq asks once a connection, over inproc in the context of the socket that is connected to. Whoever is let
in has its key as `User-Id` on every message, so the fleet can ask again whose key it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import zmq
import zmq.asyncio
from zmq.utils import z85

logger = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
RESTART_DELAY = 0.1  # seconds


class AllowList:
    """The keys that each domain lets in, for the handlers of all contexts. Without a list it lets in none."""

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[str]] = {}

    def set(self, domain: str, keys: frozenset[str]) -> None:
        """Let exactly these in from now on. Connections that exist are not asked again."""
        self._keys[domain] = keys

    def answer(self, request: Sequence[bytes]) -> list[bytes]:
        """The reply to a ZAP request: version, id, status, text, User-Id, metadata."""
        version, request_id = b"1.0", request[1] if len(request) > 1 else b""
        try:
            domain, mechanism, key = request[2].decode("ascii"), request[5], request[6]
            if request[0] == version and mechanism == b"CURVE" and len(request) == 7:
                name = z85.encode(key).decode("ascii")
                if name in self._keys.get(domain, ()):
                    return [version, request_id, b"200", b"OK", name.encode("ascii"), b""]
                logger.warning("%s: refused the unknown key %s", domain, name)
        except (IndexError, ValueError) as exc:
            logger.warning("refused what is no ZAP request: %s", exc)
        return [version, request_id, b"400", b"not allowed", b"", b""]


class Doorkeeper:
    """Answers libzmq's question in one context. Its task is started again whenever it ends.

    While nobody answers, connections wait and are given up by libzmq: it fails closed.
    The socket is bound when this is made, so that no connection finds a context without a handler.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allow_list: AllowList, name: str) -> None:
        self._allow_list = allow_list
        self._name = name
        self._context = zmq.asyncio.Context.shadow(context.underlying)
        # A ROUTER and no REP: one request without a reply does not block all that follow.
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(ENDPOINT)
        self._supervisor: asyncio.Task[None] | None = None
        self.answering: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Answer from now on."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"zap {self._name} supervisor")

    async def stop(self) -> None:
        """Answer no more, and leave the context."""
        for task in (self._supervisor, self.answering):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._socket.close(linger=0)

    async def _supervise(self) -> None:
        while True:
            self.answering = asyncio.create_task(self._answer(), name=f"zap {self._name}")
            await asyncio.wait({self.answering})
            reason = "cancelled" if self.answering.cancelled() else repr(self.answering.exception())
            logger.error("zap %s ended (%s), starting it again", self._name, reason)
            await asyncio.sleep(RESTART_DELAY)

    async def _answer(self) -> None:
        while True:
            routing_id, delimiter, *request = await self._socket.recv_multipart()
            await self._socket.send_multipart([routing_id, delimiter, *self._allow_list.answer(request)])
