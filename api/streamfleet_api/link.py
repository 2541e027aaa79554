"""The api's way to the broker: one DEALER, any number of questions at once, a deadline on each.

A question that was under way when the broker restarted is asked again of the new one, under the same id.

LinkError
├── BrokerUnreachable: nobody answered in time
├── Refused: the broker answered that it will not, and why
└── BadReply: the broker answered something that this version does not know
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from streamfleet_broker.protocol.control import MAX_REPLY, Envelope, decode, encode
from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import Error, ErrorCode, Message, Reply
from streamfleet_broker.protocol.requests import (
    CheckTicket,
    GetDevice,
    GetEvents,
    GetFleet,
    GetPipeline,
    ListDevices,
    ListModels,
    ListPipelines,
    OperatorRequest,
    pack_request,
)
from streamfleet_broker.protocol.values import from_plain

logger = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds that an answer may take
CONNECT_TIMEOUT = 2.0  # seconds that a connection may take, within the former

_QUERIES = (  # that change nothing
    CheckTicket,
    GetDevice,
    GetEvents,
    GetFleet,
    GetPipeline,
    ListDevices,
    ListModels,
    ListPipelines,
)

T = TypeVar("T")


class LinkError(Exception):
    """A question that has no answer."""


class BrokerUnreachable(LinkError):
    """Nobody answered in time: a change may have happened or not, so ask again or look."""

    def __init__(self, endpoint: str, expected: str, timeout: float) -> None:
        super().__init__(f"the broker at {endpoint} gave no {expected} within {timeout:g} s")
        self.endpoint = endpoint


class Refused(LinkError):
    """The broker answered that it will not, and nothing has changed."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class BadReply(LinkError):
    """The broker answered something that this version of the api does not know."""


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """What a socket needs to speak CURVE with the broker."""

    server_key: str
    public_key: str
    secret_key: str = field(repr=False)

    def apply(self, socket: zmq.asyncio.Socket) -> None:
        """Make the socket a CURVE client; call it before `connect`."""
        socket.curve_serverkey = self.server_key.encode("ascii")
        socket.curve_publickey = self.public_key.encode("ascii")
        socket.curve_secretkey = self.secret_key.encode("ascii")


@dataclass(slots=True)
class _Question:
    frames: list[bytes]
    answer: asyncio.Future[Message]
    sent: bool = False
    lost: bool = False  # sent on a connection that broke since


class Link:
    """One connection to the broker's operators' ROUTER, for one event loop."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, *, keys: CurveKeys | None = None) -> None:
        self.endpoint = endpoint
        self.changes = 0  # requests that may have changed something and are over, however they ended
        self._context = context
        self._keys = keys
        self._questions: dict[bytes, _Question] = {}
        self._socket: zmq.asyncio.Socket | None = None
        self._monitor: zmq.asyncio.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to connect; the broker need not be there yet."""
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.immediate = True  # what cannot be sent now fails now, it does not arrive minutes later
        socket.sndhwm = 1000
        socket.ipv6 = True
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
        if self._keys is not None:
            self._keys.apply(socket)
        self._socket = socket
        self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._monitor.linger = 0
        self._tasks = [
            asyncio.create_task(self._receive(socket), name="link answers"),
            asyncio.create_task(self._ask_again(socket, self._monitor), name="link reconnects"),
        ]
        socket.connect(self.endpoint)

    async def close(self) -> None:
        """Drop the connection; whoever still waits gets BrokerUnreachable at their deadline."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger=0)
        if self._monitor is not None:
            self._monitor.close(linger=0)
        self._socket = self._monitor = None

    async def ask(self, request: OperatorRequest, reply_type: type[T], *, timeout: float = TIMEOUT) -> T:
        """The broker's answer.

        Raises: Refused, BrokerUnreachable, BadReply.
        """
        request_id = uuid.uuid4().bytes
        question = _Question(
            encode(Envelope(pack_request(request), request_id=request_id)),
            asyncio.get_running_loop().create_future(),
        )
        self._questions[request_id] = question
        try:
            await self._send(question, min(timeout, CONNECT_TIMEOUT))
            answer = await asyncio.wait_for(question.answer, timeout)
        except asyncio.TimeoutError as exc:
            raise BrokerUnreachable(self.endpoint, "answer", timeout) from exc
        finally:
            del self._questions[request_id]
            if not isinstance(request, _QUERIES):
                self.changes += 1
        return _unpack(answer, reply_type)

    async def _send(self, question: _Question, timeout: float) -> None:
        assert self._socket is not None, "start() comes first"
        try:
            await asyncio.wait_for(self._socket.send_multipart(question.frames), timeout)
        except asyncio.TimeoutError as exc:
            raise BrokerUnreachable(self.endpoint, "connection", timeout) from exc
        question.sent = True

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            try:
                envelope = decode(frames)
            except BadMessage as exc:
                logger.warning("broker: dropped a message: %s", exc)
                continue
            question = self._questions.get(envelope.request_id)
            if question is not None and not question.answer.done():
                question.answer.set_result(envelope.message)

    async def _ask_again(self, socket: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket) -> None:
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())["event"]
            if event == zmq.EVENT_DISCONNECTED:
                logger.warning("broker: disconnected from %s", self.endpoint)
                for question in self._questions.values():
                    question.lost = question.sent
                continue
            logger.info("broker: connected to %s", self.endpoint)
            for question in [each for each in self._questions.values() if each.lost]:
                question.lost = False
                with contextlib.suppress(zmq.Again):
                    await socket.send_multipart(question.frames, zmq.NOBLOCK)


def _unpack(answer: Message, reply_type: type[T]) -> T:
    if isinstance(answer, Error):
        raise Refused(answer.code, answer.message)
    if not isinstance(answer, Reply):
        raise BadReply(f"expected a Reply or an Error, came {type(answer).__name__}")
    try:
        return from_plain(answer.data, reply_type)
    except msgspec.ValidationError as exc:
        raise BadReply(f"expected {reply_type}, came something else: {exc}") from exc
