"""The DEALER to the broker: opened, closed, sent to and received from. It decides nothing: `session` does.

Each opening is a new socket, so nothing of an earlier one can arrive. The key is the identity; none is set.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from streamfleet_core.protocol.control_plane import CURVE_MARGIN, MAX_BODY, Envelope, decode, encode
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.runtime.client_socket import configure
from streamfleet_core.runtime.curve import CurveKeys

logger = logging.getLogger(__name__)

_DRAIN = 256  # messages between two turns of the loop


def dealer(context: zmq.asyncio.Context, keys: CurveKeys) -> zmq.asyncio.Socket:
    """A DEALER for the devices' plane, not connected yet."""
    socket = context.socket(zmq.DEALER)
    configure(socket, largest=MAX_BODY + CURVE_MARGIN)
    socket.sndhwm = socket.rcvhwm = 32
    socket.handshake_ivl = 5000
    socket.immediate = True  # a heartbeat of the past is exactly what must not arrive
    keys.apply(socket)
    return socket


class BrokerLink:
    """At most one socket to the broker. What comes is handed to `on_message`, from the loop."""

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
        """Begin to connect."""
        self.close()
        socket = self._socket = dealer(self._context, self._keys)
        monitor = self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._tasks = (
            asyncio.create_task(self._receive(socket), name="link"),
            asyncio.create_task(_watch(monitor, endpoint), name="link monitor"),
        )
        for task in self._tasks:
            task.add_done_callback(_raise)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as exc:
            logger.error("%s is no address: %s", endpoint, exc)

    def close(self, *, linger: int = 0) -> None:
        """Forget the socket. What was sent and is still here gets so many milliseconds to leave."""
        for task in self._tasks:
            task.cancel()
        self._tasks = ()
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger)
            self._socket = self._monitor = None

    def send(self, envelope: Envelope) -> bool:
        """Send at once, or not at all: False when there is no connection or no room."""
        if self._socket is None:
            return False
        sending = self._socket.send_multipart(encode(envelope), flags=zmq.NOBLOCK)
        assert isinstance(sending, asyncio.Future)
        problem = sending.exception()  # with NOBLOCK it is done at once, one way or the other
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
                logger.warning("the broker sent a message that cannot be read: %s", exc)
                continue
            logger.debug("< %s", envelope)
            self._on_message(envelope)
            if self._socket is not socket:
                return  # the message made us close it


def _raise(task: asyncio.Task[None]) -> None:
    """A bug must reach the loop's exception handler, and not lie in a task that nobody awaits."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        raise exc


async def _messages(socket: zmq.asyncio.Socket) -> AsyncIterator[list[bytes]]:
    """Await one, then take what lies there, then give way: many times cheaper than awaiting each."""
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


async def _watch(monitor: zmq.asyncio.Socket, endpoint: str) -> None:
    """Say, once for each socket, when the key is what keeps us out."""
    await recv_monitor_message(monitor)
    logger.error("%s refuses this device's key: it was replaced, revoked, or is another fleet's", endpoint)
