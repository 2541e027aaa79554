"""The api's connection to the broker: one DEALER, any number of concurrent requests, a deadline for each.

If the broker restarts, pending requests are sent again under the same id. Of several brokers one leads. Each
has a DEALER of its own, and a request goes to the one that answered last, then to the others until one leads.

BrokerClientError
├── BrokerUnreachable: no reply in time
├── Refused: the broker refused the request, with a reason
└── BadReply: a reply that this version does not know
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from streamfleet_core.protocol.control_plane import Envelope, decode, decode_data, encode
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import CURVE_MARGIN, MAX_REPLY_BODY
from streamfleet_core.protocol.messages import Error, ErrorCode, Message, Reply
from streamfleet_core.protocol.requests import (
    CheckHolder,
    CheckTicket,
    DeviceFigures,
    DeviceView,
    FindOptimisation,
    FleetFigures,
    FleetView,
    GetDevice,
    GetEvents,
    GetFigures,
    GetFleet,
    GetPipeline,
    ListCosts,
    ListDevices,
    ListModels,
    ListPipelines,
    ListSubscribers,
    OperatorRequest,
    PipelineFigures,
    PipelineView,
    PlanPipelines,
    pack_request,
)
from streamfleet_core.runtime.client_socket import configure
from streamfleet_core.runtime.curve import CurveKeys

logger = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds for a reply
PAGE = 250  # pipelines or devices that are listed at once
CONNECT_TIMEOUT = 2.0  # seconds for the connection, included in the timeout
# Of several brokers: seconds without an answer after which another one is asked, too; it refuses unless it
# leads. And seconds after which one that did not lead is asked again.
OTHER_AFTER = 1.5
AGAIN_AFTER = 0.25
_TURN = 0.1  # seconds

_QUERIES = (  # requests that change nothing
    CheckHolder,
    CheckTicket,
    FindOptimisation,
    GetDevice,
    GetEvents,
    GetFigures,
    GetFleet,
    GetPipeline,
    ListDevices,
    ListCosts,
    ListModels,
    ListPipelines,
    ListSubscribers,
    PlanPipelines,
)

T = TypeVar("T")
Endpoints = str | tuple[str, ...]  # of one broker, or of several of which one leads


class BrokerClientError(Exception):
    """A request without a reply."""


class BrokerUnreachable(BrokerClientError):
    """No reply in time. A change may or may not have happened."""

    def __init__(self, endpoint: str, expected: str, timeout: float) -> None:
        super().__init__(f"the broker at {endpoint} gave no {expected} within {timeout:g} s")
        self.endpoint = endpoint


class Refused(BrokerClientError):
    """The broker refused the request. Nothing has changed."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class BadReply(BrokerClientError):
    """A reply that this version of the api does not know."""


@dataclass(slots=True)
class _PendingRequest:
    frames: list[bytes]
    answer: asyncio.Future[Message]
    sent: bool = False
    lost: bool = False  # sent on a connection that broke since
    # With several brokers:
    asked: set[_Connection] = field(default_factory=set)  # those that may answer yet
    asked_at: float = 0.0  # when the last one was asked
    again_at: dict[_Connection, float] = field(default_factory=dict)  # of those that do not lead
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # one of them answered, refused or broke

    def expire(self) -> None:
        """End the wait for the answer."""
        if not self.answer.done():
            self.answer.set_exception(asyncio.TimeoutError())


@dataclass(slots=True, eq=False)
class _Connection:
    """A DEALER to one broker."""

    endpoint: str
    socket: zmq.asyncio.Socket
    monitor: zmq.asyncio.Socket
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class BrokerClient:
    """One connection to the operators' ROUTER of each broker, for one event loop."""

    def __init__(self, context: zmq.asyncio.Context, *endpoints: str, keys: CurveKeys | None = None) -> None:
        self.endpoint = ", ".join(endpoints)
        self._endpoints = endpoints
        self.changes = 0  # number of finished requests that may have changed something
        self._context = context
        self._keys = keys
        self._pending: dict[bytes, _PendingRequest] = {}
        self._connections: list[_Connection] = []  # first that of the leader, as far as it is known

    async def start(self) -> None:
        """Start to connect. The broker need not run yet."""
        self._connections = [self._connect(endpoint) for endpoint in self._endpoints]

    async def close(self) -> None:
        """Close all connections. Pending requests raise BrokerUnreachable at their deadlines."""
        tasks = [task for connection in self._connections for task in connection.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections:
            connection.socket.disable_monitor()
            connection.socket.close(linger=0)
            connection.monitor.close(linger=0)
        self._connections = []

    def _connect(self, endpoint: str) -> _Connection:
        socket = self._context.socket(zmq.DEALER)
        configure(socket, largest=MAX_REPLY_BODY + CURVE_MARGIN, reconnect=(50, 1000))
        socket.immediate = True  # without a connection, fail now instead of delivering minutes later
        socket.sndhwm = 1000
        if self._keys is not None:
            self._keys.apply(socket)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        monitor.linger = 0
        connection = _Connection(endpoint, socket, monitor)
        connection.tasks = [
            asyncio.create_task(self._receive(connection), name="broker replies"),
            asyncio.create_task(self._resend_after_reconnect(connection), name="broker reconnects"),
        ]
        socket.connect(endpoint)
        return connection

    async def ask(self, request: OperatorRequest, reply_type: type[T], *, timeout: float = TIMEOUT) -> T:
        """Send a request and return the reply.

        Raises: Refused, BrokerUnreachable, BadReply.
        """
        request_id = uuid.uuid4().bytes
        try:
            frames = encode(Envelope(pack_request(request), request_id=request_id))
        except UnicodeEncodeError as exc:
            raise Refused("invalid", "a lone surrogate is not a character") from exc
        except BadMessage as exc:  # each of its fields has its bound, and all together have another
            raise Refused("invalid", f"the request is too large: {exc}") from exc
        pending = _PendingRequest(frames, asyncio.get_running_loop().create_future())
        self._pending[request_id] = pending
        try:
            if len(self._endpoints) > 1:
                answer = await asyncio.wait_for(self._answer_of_leader(pending), timeout)
            else:
                await self._send(pending, min(timeout, CONNECT_TIMEOUT))
                answer = await _answer_within(pending, timeout)
        except asyncio.TimeoutError as exc:
            raise BrokerUnreachable(self.endpoint, "answer", timeout) from exc
        finally:
            del self._pending[request_id]
            if not isinstance(request, _QUERIES):
                self.changes += 1
        return _unpack(answer, reply_type)

    async def pipelines(self, *, timeout: float = TIMEOUT) -> tuple[PipelineView, ...]:
        """All pipelines, oldest first, in pages: a long list would stop the broker and this process for long.

        Args:
            timeout: seconds for each page.

        Raises: Refused, BrokerUnreachable, BadReply.
        """
        found: list[PipelineView] = []
        while True:
            after = found[-1].order if found else 0
            page = await self.page_of_pipelines(after, PAGE, timeout=timeout)
            found += page
            if len(page) < PAGE:
                return tuple(found)

    async def page_of_pipelines(
        self, after: int, limit: int, *, timeout: float = TIMEOUT
    ) -> tuple[PipelineView, ...]:
        """The next pipelines after one with this `order`, oldest first. Raises: as `pipelines`."""
        views = await self.ask(ListPipelines(after, limit), tuple[PipelineView, ...], timeout=timeout)
        if views and not views[0].order:  # an older broker lists all
            numbered = (replace(view, order=number) for number, view in enumerate(views, 1))
            views = tuple(view for view in numbered if view.order > after)
        return views[:limit]

    async def devices(self, *, timeout: float = TIMEOUT) -> tuple[DeviceView, ...]:
        """All devices by name, in pages. Raises: as `pipelines`."""
        found: list[DeviceView] = []
        while True:
            after = found[-1].device if found else None
            page = await self.page_of_devices(after, PAGE, timeout=timeout)
            found += page
            if len(page) < PAGE:
                return tuple(found)

    async def page_of_devices(
        self, after: str | None, limit: int, *, timeout: float = TIMEOUT
    ) -> tuple[DeviceView, ...]:
        """The next devices after one of this name. Raises: as `pipelines`."""
        views = await self.ask(ListDevices(after, limit), tuple[DeviceView, ...], timeout=timeout)
        return tuple(view for view in views if after is None or view.device > after)[:limit]

    async def figures(self, *, timeout: float = TIMEOUT) -> FleetFigures:
        """What the broker knows for metrics. An older broker lists everything. Raises: as `pipelines`."""
        try:
            return await self.ask(GetFigures(), FleetFigures, timeout=timeout)
        except Refused as exc:
            if exc.code != "bad_message":
                raise
        fleet, pipelines, devices = await asyncio.gather(
            self.ask(GetFleet(), FleetView, timeout=timeout),
            self.pipelines(timeout=timeout),
            self.devices(timeout=timeout),
        )
        return FleetFigures(
            fleet, tuple(map(PipelineFigures.of, pipelines)), tuple(map(DeviceFigures.of, devices))
        )

    async def _answer_of_leader(self, pending: _PendingRequest) -> Message:
        """Ask one broker after the other until one answers that leads."""
        loop = asyncio.get_running_loop()
        while not pending.answer.done():
            now = loop.time()
            if not pending.asked or now >= pending.asked_at + OTHER_AFTER:
                self._ask_next(pending, now)
            pending.changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(pending.changed.wait(), _TURN)
        return pending.answer.result()

    def _ask_next(self, pending: _PendingRequest, now: float) -> None:
        """Send a request to the first broker that does not have it and takes it now."""
        for connection in self._connections:
            if connection in pending.asked or now < pending.again_at.get(connection, now):
                continue
            sending = connection.socket.send_multipart(pending.frames, zmq.NOBLOCK)
            assert isinstance(sending, asyncio.Future)
            if sending.exception() is None:  # with NOBLOCK it is done at once
                pending.asked.add(connection)
                pending.asked_at = now
                return

    async def _send(self, pending: _PendingRequest, timeout: float) -> None:
        assert self._connections, "start() comes first"
        sending = asyncio.ensure_future(self._connections[0].socket.send_multipart(pending.frames))
        try:
            # It is sent at once while there is a connection.
            await (sending if sending.done() else asyncio.wait_for(sending, timeout))
        except asyncio.TimeoutError as exc:
            raise BrokerUnreachable(self.endpoint, "connection", timeout) from exc
        pending.sent = True

    async def _receive(self, connection: _Connection) -> None:
        while True:
            frames = await connection.socket.recv_multipart()
            try:
                envelope = decode(frames, raw_data=True)
            except BadMessage as exc:
                logger.warning("broker: dropped a message: %s", exc)
                continue
            pending = self._pending.get(envelope.request_id)
            if pending is not None and not pending.answer.done():
                self._answered(pending, connection, envelope.message)

    def _answered(self, pending: _PendingRequest, connection: _Connection, answer: Message) -> None:
        """Take an answer; of several brokers, that of the leader."""
        several = len(self._endpoints) > 1
        if several and isinstance(answer, Error) and answer.code == "not_leader":
            pending.asked.discard(connection)
            pending.again_at[connection] = asyncio.get_running_loop().time() + AGAIN_AFTER
        else:
            pending.answer.set_result(answer)
            if connection is not self._connections[0]:
                logger.info("broker: %s leads", connection.endpoint)
                self._connections.sort(key=lambda each: each is not connection)
        pending.changed.set()

    async def _resend_after_reconnect(self, connection: _Connection) -> None:
        while True:
            event = parse_monitor_message(await connection.monitor.recv_multipart())["event"]
            if event == zmq.EVENT_DISCONNECTED:
                logger.warning("broker: disconnected from %s", connection.endpoint)
                for pending in self._pending.values():
                    pending.lost = pending.sent
                    pending.asked.discard(connection)
                    pending.changed.set()
                continue
            logger.info("broker: connected to %s", connection.endpoint)
            for pending in [each for each in self._pending.values() if each.lost]:
                pending.lost = False
                with contextlib.suppress(zmq.Again):
                    await connection.socket.send_multipart(pending.frames, zmq.NOBLOCK)


async def _answer_within(pending: _PendingRequest, timeout: float) -> Message:
    """The answer, as `wait_for` waits for it, in fewer turns of the loop: beside a scrape each takes a while.

    Raises: asyncio.TimeoutError.
    """
    deadline = asyncio.get_running_loop().call_later(timeout, pending.expire)
    try:
        return await pending.answer
    finally:
        deadline.cancel()


def _unpack(answer: Message, reply_type: type[T]) -> T:
    if isinstance(answer, Error):
        raise Refused(answer.code, answer.message)
    if not isinstance(answer, Reply):
        raise BadReply(f"expected a Reply or an Error, got {type(answer).__name__}")
    try:
        return decode_data(answer.data, reply_type)
    except (msgspec.ValidationError, BadMessage) as exc:
        raise BadReply(f"expected {reply_type}, got something else: {exc}") from exc
