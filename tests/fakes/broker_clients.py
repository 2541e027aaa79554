"""Peers of a broker on real sockets, each as small as it can be."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pytest
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from streamfleet_broker import server
from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.fleet.state import FleetConfig
from streamfleet_broker.relay import relay
from streamfleet_broker.server import Broker, Endpoints, open_broker
from streamfleet_broker.sockets import CONTROL_OPTIONS, DATA_OPTIONS, OPERATOR_OPTIONS, PICTURE_OPTIONS
from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope, decode, encode
from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import (
    Desired,
    DeviceMessage,
    Enrol,
    Enrolled,
    Error,
    Heartbeat,
    Hello,
    Message,
    Reply,
    Subscribers,
    Welcome,
)
from streamfleet_core.protocol.requests import (
    AddDevice,
    AddSubscriber,
    CreatePipeline,
    OperatorRequest,
    PipelineView,
    Subscription,
    Token,
    pack_request,
)
from streamfleet_core.protocol.values import (
    Assignment,
    KeyPair,
    ModelRef,
    PipelineSpec,
    SourceSpec,
    from_plain,
    observed_digest,
)
from streamfleet_core.runtime.curve import new_key_pair
from tests.fakes.patience import PATIENCE

SPEC = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://10.0.0.9/door"),))
T = TypeVar("T")
_LONG = 10.0 * PATIENCE  # seconds, in which nothing happens by itself

OUTCOMES: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "in",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "protocol",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "protocol",
    zmq.EVENT_DISCONNECTED: "cut",
}


def message(
    kind: Kind, pipeline_id: str, generation: int, body: bytes = b"\x80", seq: int = 0
) -> list[bytes]:
    """A message of a pipeline, as its device publishes it."""
    return [
        pipeline_topic(kind, pipeline_id),
        DataHeader(kind=kind, gen=generation, inc=1, seq=seq).pack(),
        body,
    ]


@dataclass(frozen=True)
class Curve:
    """What a CURVE client needs."""

    own: KeyPair
    server: str


async def until(condition: Callable[[], T], what: str, *, timeout: float = PATIENCE) -> T:
    """The first true value of a condition."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(folder: Path, *, probe: float = _LONG, **options: Any) -> AsyncIterator[Broker]:
    """A broker at work, on any ports. A test may stand still: to be silent or slow means nothing to it.

    `probe`: seconds of silence after which it tries out a connection.
    """
    ports = ("devices", "relay_in", "relay_out", "pictures_in", "pictures_out")
    any_port = {f"{name}_port": 0 for name in ports}
    config = BrokerConfig(data_dir=folder, **{**any_port, **options})
    usual = server._fleet_config

    def patient(*given: Any) -> FleetConfig:
        return replace(usual(*given), lease=2 * _LONG)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "_fleet_config", patient)
        patch.setattr(FleetConfig, "probe", probe)
        patch.setattr(FleetConfig, "suspect", _LONG)
        patch.setattr(relay, "MUTE", _LONG)
        for socket_options in (CONTROL_OPTIONS, OPERATOR_OPTIONS, DATA_OPTIONS, PICTURE_OPTIONS):
            patch.setitem(socket_options, zmq.HANDSHAKE_IVL, round(_LONG * 1000))
        async with open_broker(config) as broker:
            running = asyncio.create_task(broker.run())
            try:
                yield broker
                assert not running.done(), running
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


class Sockets:
    """Makes sockets that are closed at the end, whatever happens."""

    def __init__(self) -> None:
        self._context = zmq.asyncio.Context()
        self._made: list[zmq.asyncio.Socket] = []  # a socket that nobody holds would be closed too early

    def make(self, kind: int, curve: Curve | None = None, **options: Any) -> zmq.asyncio.Socket:
        """A socket that is not connected yet."""
        socket = self._context.socket(kind)
        self._made.append(socket)
        socket.linger = 0
        socket.ipv6 = True
        for name, value in options.items():
            setattr(socket, name, value)
        if curve is not None:
            socket.curve_publickey = curve.own.public.encode()
            socket.curve_secretkey = curve.own.secret.encode()
            socket.curve_serverkey = curve.server.encode()
        return socket

    async def handshake(self, socket: zmq.asyncio.Socket, endpoint: str, timeout: float = PATIENCE) -> str:
        """Connect, and tell how it went: in, refused, protocol, cut, or waiting."""
        events = 0
        for event in OUTCOMES:
            events |= event
        # libzmq gives an address back some time after its use, and another monitor may follow at once.
        monitor = socket.get_monitor_socket(events, f"inproc://handshake-{uuid.uuid4()}")
        socket.connect(endpoint)
        try:
            told = await asyncio.wait_for(recv_monitor_message(monitor), timeout)
            return OUTCOMES[told["event"]]
        except asyncio.TimeoutError:
            return "waiting"
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)

    def close(self) -> None:
        """Close them all."""
        self._context.destroy(linger=0)


class Operator:
    """Asks the broker."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket

    async def ask(self, request: OperatorRequest) -> Reply | Error:
        """The answer to a request."""
        request_id = uuid.uuid4().bytes
        await self._socket.send_multipart(encode(Envelope(pack_request(request), request_id=request_id)))
        envelope = decode(await asyncio.wait_for(self._socket.recv_multipart(), PATIENCE))
        assert envelope.request_id == request_id
        assert isinstance(envelope.message, Reply | Error)
        return envelope.message

    async def ask_all(self, requests: Sequence[OperatorRequest]) -> list[Reply | Error]:
        """The answers to requests that are sent one after the other, without waiting for any answer."""
        ids = [uuid.uuid4().bytes for _ in requests]
        for request_id, request in zip(ids, requests, strict=True):
            await self._socket.send_multipart(encode(Envelope(pack_request(request), request_id=request_id)))
        answers: dict[bytes, Reply | Error] = {}
        while len(answers) < len(ids):
            envelope = decode(await asyncio.wait_for(self._socket.recv_multipart(), PATIENCE))
            assert isinstance(envelope.message, Reply | Error)
            answers[envelope.request_id] = envelope.message
        return [answers[request_id] for request_id in ids]

    async def get(self, request: OperatorRequest, of: type[T]) -> T:
        """The reply to a request that works."""
        answer = await self.ask(request)
        assert isinstance(answer, Reply), answer
        return from_plain(answer.data, of)


@dataclass
class Device:
    """A device that says what it is told to."""

    name: str
    curve: Curve
    socket: zmq.asyncio.Socket
    session: bytes = NO_SESSION
    epoch: int = 0
    seq: int = 0
    heartbeat_number: int = 0
    revision: int = 0
    assignments: tuple[Assignment, ...] = ()
    subscribers: tuple[str, ...] = ()
    sent: list[list[bytes]] = field(default_factory=list)  # everything, as bytes

    async def send(self, message: DeviceMessage) -> None:
        """Say something, as the next of the session."""
        if self.session != NO_SESSION:
            self.seq += 1
        frames = encode(Envelope(message, epoch=self.epoch, session=self.session, seq=self.seq))
        self.sent.append(frames)
        await self.socket.send_multipart(frames)

    async def next(self) -> Envelope:
        """What comes next."""
        envelope = decode(await asyncio.wait_for(self.socket.recv_multipart(), PATIENCE))
        match envelope.message:
            case Welcome():
                self.session, self.epoch, self.seq = envelope.message.session, envelope.epoch, 0
            case Desired():
                self.revision, self.assignments = envelope.message.revision, envelope.message.assignments
            case Subscribers():
                self.subscribers = envelope.message.keys
        return envelope

    async def await_(self, of: type[T]) -> T:
        """The next message of this type; others are taken note of."""
        while True:
            message: Message = (await self.next()).message
            if isinstance(message, of):
                return message

    async def hello(
        self, name: str | None = None, *, boot: bytes = b"b" * 16, capacity: int = 4, seen_epoch: int = 0
    ) -> None:
        """Ask for a session."""
        self.session, self.seq = NO_SESSION, 0
        await self.send(
            Hello(
                device=name or self.name, boot=boot, agent="0.1.0", capacity=capacity, seen_epoch=seen_epoch
            )
        )

    async def heartbeat(self) -> None:
        """Be alive, and run nothing."""
        self.heartbeat_number += 1
        await self.send(Heartbeat(self.heartbeat_number, self.revision, observed_digest(()), ()))


class HasEndpoints(Protocol):
    """A broker, wherever it runs."""

    @property
    def endpoints(self) -> Endpoints: ...


B = TypeVar("B", bound=HasEndpoints)


@dataclass
class Site(Generic[B]):
    """A broker, and whoever wants to talk to it."""

    broker: B
    folder: Path
    sockets: Sockets

    def key(self, name: str) -> KeyPair:
        """A key pair of the data directory: broker, or operator."""
        return KeyPair(**json.loads((self.folder / f"keys/{name}.key").read_text()))

    def curve(self, own: KeyPair | None = None) -> Curve:
        """With a key, or with one that nobody knows."""
        return Curve(own or new_key_pair(), self.key("broker").public)

    def operator(self) -> Operator:
        """An operator on this host, or over TCP where the broker has a port for it."""
        endpoint = self.broker.endpoints.operators
        curve = self.curve(self.key("operator")) if endpoint.startswith("tcp") else None
        socket = self.sockets.make(zmq.DEALER, curve)
        socket.connect(endpoint)
        return Operator(socket)

    async def token(self, name: str, ttl: float = 60.0) -> KeyPair:
        """The one-time key of a new device."""
        line = (await self.operator().get(AddDevice(name, ttl), Token)).token
        secret = JoinToken.decode(line).secret_key
        return KeyPair(zmq.curve_public(secret.encode()).decode(), secret)

    def dealer(self, curve: Curve) -> zmq.asyncio.Socket:
        """A DEALER on the devices' plane."""
        socket = self.sockets.make(zmq.DEALER, curve)
        socket.connect(self.broker.endpoints.devices)
        return socket

    async def enrol(self, name: str) -> Device:
        """A new device with its own key."""
        one_time = self.device(name, await self.token(name))
        own = new_key_pair()
        await one_time.send(Enrol(own.public))
        assert await one_time.await_(Enrolled) == Enrolled(name)
        return self.device(name, own)

    def device(self, name: str, own: KeyPair) -> Device:
        """A device on a new connection, with a key that it has already."""
        curve = self.curve(own)
        return Device(name, curve, self.dealer(curve))

    async def holding(self, name: str, pipeline_id: str) -> tuple[Device, int]:
        """A new device with a pipeline, and that one's generation."""
        device = await self.ready(name)
        view = await self.operator().get(
            CreatePipeline(pipeline_id=pipeline_id, spec=SPEC, device=name), PipelineView
        )
        return device, view.generation

    async def subscriber(self, name: str, **limits: Any) -> Curve:
        """The keys of a new subscriber."""
        made = await self.operator().get(AddSubscriber(name, **limits), Subscription)
        return Curve(KeyPair(made.public_key, made.secret_key), made.server_key)

    async def ready(self, name: str) -> Device:
        """A new device with a session."""
        device = await self.enrol(name)
        await device.hello()
        await device.await_(Subscribers)
        await device.heartbeat()
        return device
