"""The Stream Manager's port: each connection carries one request and one reply, and is then closed.

reading --complete--> executing --done--> replying --sent--> closed
reading --malformed, silent, too slow--> replying

No connection waits for another. The protocol has no token: other hosts must be in a network of --trust.
Sockets are used directly, without the loop's transports and streams. Most requests are complete when their
connection is accepted and are answered at once, at half the cost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable

from streamfleet_api.roboflow.tcp.commands import Commands
from streamfleet_api.roboflow.tcp.framing import BadFrame, Frame, framed
from streamfleet_api.roboflow.tcp.replies import Response, failure, reply, timed_out
from streamfleet_api.web.acceptor import Acceptor
from streamfleet_api.web.access_policy import Network, address_of, is_trusted
from streamfleet_core.runtime.file_descriptors import read_descriptors

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait in the kernel
MAX_READING = 500  # connections; beyond that, the address with most connections loses its oldest
_SHARE = 0.1  # of the file descriptors, for these connections
REQUEST_TIMEOUT = 60.0  # seconds for a complete request, even if bytes keep arriving
LINGER = 1.0  # seconds for a client that sends more than we read: a reset could discard the reply
LOG_INTERVAL = 10.0  # seconds between two log lines about untrusted addresses

_PIECE = 4096  # bytes per read: enough for nearly every request


class ManagerServer:
    """The listening socket and its connections."""

    def __init__(
        self, listener: socket.socket, commands: Commands, *, trust: tuple[Network, ...], timeout: float
    ) -> None:
        """`timeout`: seconds for which a client may neither send nor read anything."""
        self.timeout = timeout
        self._listener = listener
        self._acceptor = Acceptor(listener, "stream manager", self._take, backlog=BACKLOG)
        self._commands = commands
        self._trust = trust
        self._reading: dict[_Connection, None] = {}  # an ordered set, oldest first
        self._executing: dict[asyncio.Task[None], _Connection] = {}
        self._loop = asyncio.get_running_loop()
        self._logged_at = float("-inf")
        self._most_reading = min(MAX_READING, int(read_descriptors().limit * _SHARE))

    async def start(self) -> None:
        """Start accepting."""
        # The kernel reports a connection once it has data; a silent one after a second.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        self._acceptor.start()
        host, port = self._listener.getsockname()[:2]
        logger.info("stream manager: listening on %s, port %d", host, port)

    async def close(self) -> None:
        """Stop accepting and close all connections."""
        self._acceptor.close()
        doing = list(self._executing)
        for task in doing:
            task.cancel()
        for connection in [*self._reading, *self._executing.values()]:
            connection.close()
        await asyncio.gather(*doing, return_exceptions=True)

    def do(self, connection: _Connection, payload: bytes) -> None:
        """Execute the command of a connection and send it the reply."""
        reply = self._commands.at_once(payload)
        if reply is not None:
            connection.reply(reply)
            return
        task = asyncio.create_task(self._do(connection, payload), name="stream manager command")
        self._executing[task] = connection
        task.add_done_callback(self._executing.pop)

    def wait_for(self, connection: _Connection) -> None:
        """Register a connection whose request is incomplete."""
        self._reading[connection] = None
        if len(self._reading) > self._most_reading:
            self._oldest_of_busiest_address().disconnect()

    def _oldest_of_busiest_address(self) -> _Connection:
        """The oldest connection of the address with most connections."""
        most, _ = Counter(connection.peer for connection in self._reading).most_common(1)[0]
        return next(connection for connection in self._reading if connection.peer == most)

    def wait_no_more_for(self, connection: _Connection) -> None:
        """Unregister a connection."""
        self._reading.pop(connection, None)

    async def _do(self, connection: _Connection, payload: bytes) -> None:
        connection.reply(await self._commands.do(payload))

    def _take(self, accepted: socket.socket, peer: str) -> None:
        if is_known(peer, self._trust):
            _Connection(self, self._loop, accepted, peer).read()
        else:
            accepted.close()
            self._log_untrusted(peer)

    def _log_untrusted(self, peer: str) -> None:
        now = time.monotonic()
        if now - self._logged_at > LOG_INTERVAL:
            self._logged_at = now
            logger.warning(
                "stream manager: closed the connection of %s, which is neither this host nor in a network of "
                "--trust",
                peer,
            )


def is_known(peer: str, trust: tuple[Network, ...]) -> bool:
    """Whether an address belongs to this host or a trusted network."""
    return peer == "127.0.0.1" or is_trusted(address_of(peer), trust)  # the first is the usual case


class _Connection:
    """One client connection. It is registered with the loop only while it waits."""

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
        "peer",
    )

    def __init__(
        self,
        server: ManagerServer,
        loop: asyncio.AbstractEventLoop,
        accepted: socket.socket,
        peer: str,
    ) -> None:
        self.peer = peer
        self._server = server
        self._loop = loop
        self._socket = accepted
        self._frame = Frame()
        self._unsent = b""
        self._is_broken = False  # the client may still send, but its bytes are discarded
        self._is_waiting = False  # for the kernel; only then the timers run
        self._whole: asyncio.TimerHandle | None = None  # deadline of the complete request
        self._next: asyncio.TimerHandle | None = None  # deadline of the next progress

    def read(self) -> None:
        """Read what has arrived of the request."""
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
        """Send the reply and close the connection."""
        self._unsent = framed(payload)
        self._write()

    def disconnect(self) -> None:
        """Reply that the client took too long."""
        self._refuse(timed_out())

    def close(self) -> None:
        """Close the socket without a reply."""
        self._stop_waiting()
        self._socket.close()

    def _refuse(self, response: Response) -> None:
        self._stop_waiting()
        self._is_broken = True
        self.reply(reply(response))

    def _write(self) -> None:
        try:
            # The end of the stream follows at once: MSG_MORE lets the kernel send both in one packet.
            sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_MORE)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # the client is gone
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._is_waiting = True
            self._loop.add_writer(self._socket, self._write)
            self._expect(self._server.timeout, self.close)
        elif self._is_broken:
            self._linger()
        else:
            self.close()

    def _linger(self) -> None:
        """End our side, and let the client finish: a reset would discard a reply that it has not read yet."""
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
            self._whole = self._loop.call_later(REQUEST_TIMEOUT, self.disconnect)
            self._server.wait_for(self)
        self._expect(self._server.timeout, self.disconnect)

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
