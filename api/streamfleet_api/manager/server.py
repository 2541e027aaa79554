"""The Stream Manager's port: a connection brings one request, gets one reply, and is closed.

reading --whole--> doing --done--> replying --taken--> closed
reading --broken, silent, too slow--> replying

No connection waits for another. There is no token in this protocol: who asks from elsewhere must be trusted.
Sockets are used as they are, without the loop's transports and streams: most requests are there when their
connection is accepted, and are answered at once; those cost half of what they would.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Callable

from streamfleet_api.auth import Network
from streamfleet_api.manager.commands import Commands
from streamfleet_api.manager.framing import BadFrame, Frame, framed
from streamfleet_api.manager.replies import Response, failure, reply, timed_out

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait in the kernel
MAX_READING = 500  # connections; then the one that began first makes room
PATIENCE = 60.0  # seconds for a whole request, however steadily it trickles in
LINGER = 1.0  # seconds to let somebody finish who says more than we read: a reset could take the reply away
COMPLAINT_INTERVAL = 10.0  # seconds between two lines about strangers

_PIECE = 4096  # bytes that are read at once: nearly every request whole, and room that costs nothing
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_ROOM_PAUSE = 1.0  # seconds until accepting is tried again


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
        self._doing: dict[asyncio.Task[None], _Connection] = {}
        self._loop = asyncio.get_running_loop()
        self._complained = float("-inf")

    async def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        # We are woken when a client says something, not before; whoever says nothing comes a second later.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        self._listener.listen(BACKLOG)
        self._accept_again()
        host, port = self._listener.getsockname()[:2]
        logger.info("stream manager: listening on %s, port %d", host, port)

    async def close(self) -> None:
        """Accept no more, and let go of everybody."""
        self._loop.remove_reader(self._listener)
        doing = list(self._doing)
        for task in doing:
            task.cancel()
        for connection in [*self._reading, *self._doing.values()]:
            connection.close()
        await asyncio.gather(*doing, return_exceptions=True)

    def do(self, connection: _Connection, payload: bytes) -> None:
        """What a connection asks for; it gets the reply."""
        reply = self._commands.at_once(payload)
        if reply is not None:
            connection.reply(reply)
            return
        task = asyncio.create_task(self._do(connection, payload), name="stream manager command")
        self._doing[task] = connection
        task.add_done_callback(self._doing.pop)

    def wait_for(self, connection: _Connection) -> None:
        """It has not said everything yet."""
        self._reading[connection] = None
        if len(self._reading) > MAX_READING:
            next(iter(self._reading)).give_up()

    def wait_no_more_for(self, connection: _Connection) -> None:
        """It has, or never will."""
        self._reading.pop(connection, None)

    async def _do(self, connection: _Connection, payload: bytes) -> None:
        connection.reply(await self._commands.do(payload))

    def _accept_again(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """One connection a turn: to look for a second that is not there costs as much as a turn."""
        try:
            accepted, address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            if exc.errno not in _NO_ROOM:
                raise
            logger.error("stream manager: cannot accept a connection: %s", exc.strerror)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_NO_ROOM_PAUSE, self._accept_again)
            return
        if is_known(address[0], self._trust):
            _Connection(self, self._loop, accepted).read()
        else:
            accepted.close()
            self._complain(address[0])

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
    if peer == "127.0.0.1":  # nearly all
        return True
    address = ipaddress.ip_address(peer.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or any(address in network for network in trust)


class _Connection:
    """One client, from its connection to its end. It is registered with the loop only while it must wait."""

    __slots__ = (
        "_frame",
        "_is_broken",
        "_is_waiting",
        "_loop",
        "_next",
        "_server",
        "_socket",
        "_unsent",
        "_whole",
    )

    def __init__(
        self, server: ManagerServer, loop: asyncio.AbstractEventLoop, accepted: socket.socket
    ) -> None:
        self._server = server
        self._loop = loop
        self._socket = accepted
        self._frame = Frame()
        self._unsent = b""
        self._is_broken = False  # what it says may go on, and nobody reads it
        self._is_waiting = False  # for the kernel: then there are timers
        self._whole: asyncio.TimerHandle | None = None  # when the request must be here
        self._next: asyncio.TimerHandle | None = None  # when the next sign of life must

    def read(self) -> None:
        """What is there of the request."""
        try:
            piece = self._socket.recv(_PIECE, socket.MSG_DONTWAIT)
            payload = self._frame.feed(piece)
        except (BlockingIOError, InterruptedError):
            self._wait_for_more()
        except OSError:
            self.close()
        except BadFrame as exc:
            self._refuse(failure(exc))
        else:
            if payload is not None:
                self._stop_waiting()
                self._server.do(self, payload)
            elif piece:
                self._wait_for_more()
            else:
                self._refuse(failure(self._frame.missing))

    def reply(self, payload: bytes) -> None:
        """The last that it hears of us."""
        self._unsent = framed(payload)
        self._write()

    def give_up(self) -> None:
        """It takes too long."""
        self._refuse(timed_out())

    def close(self) -> None:
        """Without another word."""
        self._stop_waiting()
        self._socket.close()

    def _refuse(self, response: Response) -> None:
        self._stop_waiting()
        self._is_broken = True
        self.reply(reply(response))

    def _write(self) -> None:
        try:
            # Our end follows at once: the kernel puts both into one packet, which wakes the client once.
            sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_MORE)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # it has gone
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._is_waiting = True
            self._loop.add_writer(self._socket, self._write)
            self._expect(self._server.silence, self.close)
        elif self._is_broken:
            self._linger()
        else:
            self.close()

    def _linger(self) -> None:
        """Say that this was all, and let it finish: a reset would take away what it has not read yet."""
        self._stop_waiting()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._is_waiting = True
        self._loop.add_reader(self._socket, self._discard)
        self._expect(LINGER, self.close)

    def _discard(self) -> None:
        try:
            if self._socket.recv(_PIECE, socket.MSG_DONTWAIT):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.close()

    def _wait_for_more(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._loop.add_reader(self._socket, self.read)
            self._whole = self._loop.call_later(PATIENCE, self.give_up)
            self._server.wait_for(self)
        self._expect(self._server.silence, self.give_up)

    def _expect(self, seconds: float, otherwise: Callable[[], None]) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = self._loop.call_later(seconds, otherwise)

    def _stop_waiting(self) -> None:
        if not self._is_waiting:
            return
        self._is_waiting = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._server.wait_no_more_for(self)
        for timer in (self._whole, self._next):
            if timer is not None:
                timer.cancel()
