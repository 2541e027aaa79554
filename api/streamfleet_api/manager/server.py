"""The Stream Manager's port: a connection brings one request, gets one reply, and is closed.

reading --whole--> doing --done--> over
reading --broken, silent, too slow--> over

No connection waits for another. There is no token in this protocol: who asks from elsewhere must be trusted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from typing import Literal

from streamfleet_api.auth import Network
from streamfleet_api.manager.commands import Commands
from streamfleet_api.manager.framing import BadFrame, Frame, framed
from streamfleet_api.manager.replies import failure, reply, timed_out

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait in the kernel
MAX_CONNECTIONS = 500  # that are being read; then the one that began first makes room
PATIENCE = 60.0  # seconds for a whole request, however steadily it trickles in
LINGER = 1.0  # seconds to let somebody finish who says more than we read: a reset could take the reply away
COMPLAINT_INTERVAL = 10.0  # seconds between two lines about strangers


class ManagerServer:
    """The listening socket, and those who are connected."""

    def __init__(
        self, listener: socket.socket, commands: Commands, *, trust: tuple[Network, ...], silence: float
    ) -> None:
        """`silence`: seconds for which a client may say, or take, nothing."""
        self.silence = silence
        self._listener = listener
        self._commands = commands
        self._trust = trust
        self._reading: dict[_Connection, None] = {}  # a set that knows who began first
        self._doing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._complained = float("-inf")

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=self._listener, backlog=BACKLOG
        )
        host, port = self._listener.getsockname()[:2]
        logger.info("stream manager: listening on %s, port %d", host, port)

    async def close(self) -> None:
        """Accept no more, and let go of everybody."""
        assert self._server is not None, "start() comes first"
        self._server.close()
        for connection in list(self._reading):
            connection.abort()
        for task in self._doing:
            task.cancel()
        await asyncio.gather(*self._doing, return_exceptions=True)

    def admit(self, connection: _Connection, peer: str) -> bool:
        """May it ask? There is room for it then."""
        if not is_known(peer, self._trust):
            self._complain(peer)
            return False
        self._reading[connection] = None
        if len(self._reading) > MAX_CONNECTIONS:
            next(iter(self._reading)).give_up()
        return True

    def forget(self, connection: _Connection) -> None:
        """It is not being read any more."""
        self._reading.pop(connection, None)

    def do(self, connection: _Connection, payload: bytes) -> None:
        """What a connection asks for; it gets the reply."""
        task = asyncio.create_task(self._do(connection, payload), name="stream manager command")
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _do(self, connection: _Connection, payload: bytes) -> None:
        connection.finish(await self._commands.do(payload))

    def _complain(self, peer: str) -> None:
        now = time.monotonic()
        if now - self._complained > COMPLAINT_INTERVAL:
            self._complained = now
            logger.warning(
                "stream manager: closed the connection of %s, which is neither this host nor in a network of "
                "--trust",
                peer,
            )


def is_known(peer: str, trust: tuple[Network, ...]) -> bool:
    """Is this address of this host, or of a trusted network?"""
    address = ipaddress.ip_address(peer.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or any(address in network for network in trust)


class _Connection(asyncio.Protocol):
    """One client, from its connection to its end."""

    def __init__(self, server: ManagerServer) -> None:
        self._server = server
        self._frame = Frame()
        self._state: Literal["reading", "doing", "over"] = "reading"
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._whole: asyncio.TimerHandle | None = None  # when the request must be here
        self._next: asyncio.TimerHandle | None = None  # when the next piece must, or the end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if peer is None or not self._server.admit(self, peer[0]):
            transport.abort()
            return
        self._whole = self._loop.call_later(PATIENCE, self.give_up)
        self._expect(self._server.silence, self.give_up)

    def data_received(self, data: bytes) -> None:
        if self._state != "reading":
            return
        try:
            payload = self._frame.feed(data)
        except BadFrame as exc:
            self._refuse(exc)
            return
        if payload is None:
            self._expect(self._server.silence, self.give_up)
            return
        self._leave_reading("doing")
        self._server.do(self, payload)

    def eof_received(self) -> bool:
        if self._state == "reading":
            self._refuse(self._frame.missing)
        return self._state == "doing"  # keep our half for the reply

    def connection_lost(self, _exc: Exception | None) -> None:
        self._leave_reading("over")
        self._transport = None

    def finish(self, payload: bytes) -> None:
        """Reply to a request that was read whole."""
        if self._transport is None:  # it has gone
            return
        self._state = "over"
        self._transport.write(framed(payload))
        self._transport.close()
        self._expect(self._server.silence, self.abort)

    def give_up(self) -> None:
        """It took too long."""
        self._end(reply(timed_out()))

    def abort(self) -> None:
        """Without another word."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, error: BadFrame) -> None:
        self._end(reply(failure(error)))

    def _end(self, payload: bytes) -> None:
        """Reply to a request that is not read any further; it may still be on its way."""
        self._leave_reading("over")
        if self._transport is not None:
            self._transport.write(framed(payload))
            self._transport.write_eof()
            self._expect(LINGER, self.abort)

    def _leave_reading(self, state: Literal["doing", "over"]) -> None:
        self._state = state
        self._server.forget(self)
        for timer in (self._whole, self._next):
            if timer is not None:
                timer.cancel()

    def _expect(self, seconds: float, otherwise: Callable[[], None]) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = self._loop.call_later(seconds, otherwise)
