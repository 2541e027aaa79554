"""The listening socket of HTTP where that of the loop does not do.

It tells TLS and plain text apart on one port, and gets on with few file descriptors: that of the loop accepts
all that wait in the kernel before it closes any.

accepted ──room──▶ first byte ──0x16──▶ its turn ──▶ TLS ──▶ HTTP
                        └──any other──▶ HTTP
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from streamfleet_api.web.acceptor import Acceptor
from streamfleet_api.web.access_policy import Address, address_of
from streamfleet_api.web.connections import BACKLOG, Connections, Slot
from streamfleet_api.web.handshakes import Handshakes

_HANDSHAKE = b"\x16"  # the first byte of a TLS connection, and of no HTTP request
_SHUTDOWN = 0.5  # seconds for a client to say goodbye in TLS
_TURN = 0.02  # seconds until handshakes that wait are looked at again

Tls = Callable[[], ssl.SSLContext]


class HttpListener:
    """Accepts connections, and closes those that get stuck before they are HTTP."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[Slot], asyncio.Protocol],
        connections: Connections,
        tls: Tls | None,
        *,
        handshakes: Handshakes[asyncio.Future[None]],
        is_trusted: Callable[[Address | None], bool],
    ) -> None:
        """Handshakes of addresses that are trusted wait for no others."""
        self._acceptor = Acceptor(listener, "http", self._take, backlog=BACKLOG)
        self._make = make
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._handshakes = handshakes
        self._is_trusted = is_trusted
        self._next_turn: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start accepting."""
        self._acceptor.start()

    def close(self) -> None:
        """Accept no more."""
        self._acceptor.close()
        if self._next_turn is not None:
            self._next_turn.cancel()
        for task in self._beginning:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until no connection is being set up."""
        await asyncio.gather(*self._beginning, return_exceptions=True)

    def _take(self, accepted: socket.socket, peer: str) -> None:
        accepted.setblocking(False)
        begin = _Begin()
        address = address_of(peer)
        slot = self._connections.open(address, begin.cancel)
        if not slot.is_open:
            accepted.close()
            return
        begin.task = self._loop.create_task(self._begin(accepted, slot, address), name="http connection")
        self._beginning.add(begin.task)
        begin.task.add_done_callback(self._beginning.discard)

    async def _begin(self, accepted: socket.socket, slot: Slot, address: Address | None) -> None:
        try:
            options: dict[str, Any] = {}
            if self._tls is not None and await self._speaks_tls(accepted):
                if not self._is_trusted(address):
                    await self._turn(slot.network)
                options = {
                    "ssl": self._tls(),
                    "ssl_handshake_timeout": self._connections.limits.head,
                    "ssl_shutdown_timeout": _SHUTDOWN,
                }
            await self._loop.connect_accepted_socket(lambda: self._make(slot), accepted, **options)
        except (OSError, asyncio.TimeoutError):  # it went, or does not get on
            self._end(accepted, slot)
        except BaseException:
            self._end(accepted, slot)
            raise

    @staticmethod
    def _end(accepted: socket.socket, slot: Slot) -> None:
        accepted.close()
        slot.close()

    async def _speaks_tls(self, accepted: socket.socket) -> bool:
        """Raises: OSError, asyncio.TimeoutError."""
        if (first := _peek(accepted)) is None:
            await asyncio.wait_for(self._readable(accepted), self._connections.limits.head)
            first = _peek(accepted)
        return first == _HANDSHAKE

    async def _turn(self, network: str) -> None:
        """Wait until a handshake may begin. Raises: ConnectionRefusedError, asyncio.TimeoutError."""
        turn = self._loop.create_future()
        if not self._handshakes.ask(network, turn):
            raise ConnectionRefusedError("too many handshakes of its address wait")
        self._let_begin()
        try:
            await asyncio.wait_for(turn, self._connections.limits.head)
        finally:
            self._handshakes.leave(network, turn)

    def _let_begin(self) -> None:
        for turn in self._handshakes.begin(self._loop.time()):
            if not turn.done():
                turn.set_result(None)
        if self._handshakes.are_waiting and self._next_turn is None:
            self._next_turn = self._loop.call_later(_TURN, self._look_again)

    def _look_again(self) -> None:
        self._next_turn = None
        self._let_begin()

    async def _readable(self, accepted: socket.socket) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(accepted, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(accepted)


def _peek(accepted: socket.socket) -> bytes | None:
    """The first byte, which stays; empty: the client went, None: it has said nothing yet. Raises: OSError."""
    try:
        return accepted.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None


class _Begin:
    """Between a place and the protocol that takes it."""

    task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Make room for another."""
        if self.task is not None:
            self.task.cancel()
