"""The ZAP handler of ZeroMQ RFC 27: which CURVE keys may connect. The lists are held in memory only.

libzmq asks over inproc, in the context of the socket that accepts the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import zmq
import zmq.asyncio

from streamfleet_core.peers.allow_list import AllowList
from streamfleet_core.runtime.curve import zap_socket

logger = logging.getLogger(__name__)

RESTART_DELAY = 0.1  # seconds


class ZapHandler:
    """Answers the ZAP requests of one context. Its task is restarted whenever it ends.

    It fails closed: without an answer, connections wait until libzmq drops them.
    The constructor binds the socket, so that no connection finds a context without a handler.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allow_list: AllowList, name: str) -> None:
        self._allow_list = allow_list
        self._name = name
        self._context = zmq.asyncio.Context.shadow(context.underlying)
        self._socket = zap_socket(self._context)
        self._supervisor: asyncio.Task[None] | None = None
        self.answering: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start answering."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"zap {self._name} supervisor")

    async def stop(self) -> None:
        """Stop answering and close the socket."""
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
            logger.error("zap %s ended (%s), restarting", self._name, reason)
            await asyncio.sleep(RESTART_DELAY)

    async def _answer(self) -> None:
        while True:
            routing_id, delimiter, *request = await self._socket.recv_multipart()
            await self._socket.send_multipart([routing_id, delimiter, *self._allow_list.answer(request)])
