"""The DEALER socket to the broker. It decides nothing: `broker_session` does.

Each opening creates a new socket, so that no message of an earlier one can arrive. The CURVE key identifies
the device, so no routing id is set.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import CURVE_MARGIN, MAX_CONTROL_BODY
from streamfleet_core.runtime.client_socket import configure
from streamfleet_core.runtime.curve import CurveKeys

logger = logging.getLogger(__name__)

_DRAIN = 256  # messages read before the loop continues


def dealer(context: zmq.asyncio.Context, keys: CurveKeys) -> zmq.asyncio.Socket:
    """Create a DEALER for the device plane, not connected yet."""
    socket = context.socket(zmq.DEALER)
    configure(socket, largest=MAX_CONTROL_BODY + CURVE_MARGIN)
    socket.sndhwm = socket.rcvhwm = 32
    socket.handshake_ivl = 5000
    socket.immediate = True  # never queue: an old heartbeat must not arrive later
    keys.apply(socket)
    return socket


class BrokerLink:
    """At most one socket to the broker. Messages are passed to `on_message`, from the loop."""

    def __init__(
        self, context: zmq.asyncio.Context, keys: CurveKeys, on_message: Callable[[Envelope], None]
    ) -> None:
        self._context = context
        self._keys = keys
        self._on_message = on_message
        self._socket: zmq.asyncio.Socket | None = None
        self._monitor: zmq.asyncio.Socket | None = None  # of that socket
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def open(self, endpoint: str) -> None:
        """Start to connect."""
        self.close()
        socket = self._socket = dealer(self._context, self._keys)
        monitor = self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._tasks = (
            asyncio.create_task(self._receive(socket), name="link"),
            asyncio.create_task(_watch_handshake(monitor, endpoint), name="link monitor"),
        )
        for task in self._tasks:
            task.add_done_callback(_raise_exception)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as exc:
            logger.error("%s: expected a ZeroMQ address: %s", endpoint, exc)

    def close(self, *, linger: int = 0) -> None:
        """Close the socket. `linger`: milliseconds for queued messages to be sent."""
        for task in self._tasks:
            task.cancel()
        self._tasks = ()
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger)
            self._socket = self._monitor = None

    def send(self, envelope: Envelope) -> bool:
        """Send at once or not at all. Returns False without a connection, or if the queue is full."""
        if self._socket is None:
            return False
        sending = self._socket.send_multipart(encode(envelope), flags=zmq.NOBLOCK)
        assert isinstance(sending, asyncio.Future)
        problem = sending.exception()  # with NOBLOCK it is done at once, successful or not
        if isinstance(problem, zmq.Again):
            return False
        if problem is not None:
            raise problem
        logger.debug("> %s", envelope)
        return True

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        async for frames in _messages(socket):
            try:
                envelope = decode(frames)
            except BadMessage as exc:
                logger.warning("the broker sent an invalid message: %s", exc)
                continue
            logger.debug("< %s", envelope)
            self._on_message(envelope)
            if self._socket is not socket:
                return  # the message caused it to be closed


def _raise_exception(task: asyncio.Task[None]) -> None:
    """Pass a bug to the exception handler of the loop: no code awaits this task."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        raise exc


async def _messages(socket: zmq.asyncio.Socket) -> AsyncIterator[list[bytes]]:
    """Await one message, then read all waiting ones without await, which is many times cheaper."""
    shadow: zmq.Socket[bytes] = zmq.Socket.shadow(socket)
    while True:
        yield await socket.recv_multipart()
        for _ in range(_DRAIN):
            if socket.closed:
                return
            try:
                frames = shadow.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            yield frames
        await asyncio.sleep(0)


async def _watch_handshake(monitor: zmq.asyncio.Socket, endpoint: str) -> None:
    """Log, once per socket, that the broker refuses our key."""
    await recv_monitor_message(monitor)
    logger.error(
        "%s: refused this device's key: it was replaced, revoked, or belongs to another fleet", endpoint
    )
