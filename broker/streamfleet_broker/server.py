"""The broker's sockets. It decides nothing: `fleet` does.

One asyncio task owns the sockets, the fleet and the store, so there is nothing to lock: it takes a message,
performs what the fleet makes of it in that order, and only then takes the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import zmq
from typing_extensions import assert_never

from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.effects import Allow, Answer, Audit, Effect, RaiseEpoch, Save, Send
from streamfleet_broker.errors import BadConfig, StoreDown
from streamfleet_broker.fleet import Fleet
from streamfleet_broker.keys import RandomSupply, load_or_make
from streamfleet_broker.protocol.control import Envelope, decode, encode
from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import Desired, Error
from streamfleet_broker.relay import PICTURES, PREDICTIONS, Relay
from streamfleet_broker.roster import DevicePeer, OperatorPeer
from streamfleet_broker.sockets import (
    CONTROL_OPTIONS,
    OPERATOR_OPTIONS,
    Socket,
    bind,
    configure,
    port_of,
    secure,
    tcp,
)
from streamfleet_broker.state import FleetConfig
from streamfleet_broker.store import Store
from streamfleet_broker.supply import KeyPair
from streamfleet_broker.zap import AllowList, Doorkeeper

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds
DRAIN = 256  # messages of one socket before the other gets its turn
HOLD = 0.02  # seconds for which a device's wishes wait for further changes that are there already
COMPLAINT_INTERVAL = 10.0  # seconds between two lines about one sender of junk


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a broker listens, with the ports that it got."""

    devices: str
    operators: str
    predictions: str
    relay_in: str
    relay_out: str
    pictures: str
    pictures_in: str
    pictures_out: str


@contextlib.asynccontextmanager
async def open_broker(config: BrokerConfig) -> AsyncIterator[Broker]:
    """A broker that listens; its `run` serves. Raises: BrokerError."""
    _make_private(config.data_dir)
    # What is left is left from the bottom up: a context ends after the last socket in it.
    async with contextlib.AsyncExitStack() as closing:
        store = Store(config.data_dir)
        closing.callback(store.close)
        keys = load_or_make(config.data_dir / "keys/broker.key")
        operator_keys = load_or_make(config.data_dir / "keys/operator.key")

        context: zmq.Context[Socket] = zmq.Context()
        closing.callback(context.term)
        relay = Relay(keys)
        closing.push_async_callback(asyncio.to_thread, relay.stop)
        # Doors are kept before any is open. The keepers answer as soon as they know whom to let in.
        allow_list = AllowList()
        doorkeepers = (
            Doorkeeper(context, allow_list, "control"),
            Doorkeeper(relay.context, allow_list, "relay"),
        )
        for doorkeeper in doorkeepers:
            closing.push_async_callback(doorkeeper.stop)
        devices, operators = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        closing.callback(devices.close, linger=0)
        closing.callback(operators.close, linger=0)

        endpoints = _listen(config, keys, devices, operators, relay)
        fleet = Fleet(
            _fleet_config(config, endpoints, keys.public, operator_keys.public),
            store.epoch,
            store.records,
            RandomSupply(),
            now=time.monotonic(),
            unix_time=time.time(),
        )
        broker = Broker(endpoints, fleet, store, allow_list, relay, devices, operators)
        await broker.perform(fleet.start())
        for doorkeeper in doorkeepers:
            doorkeeper.start()
        yield broker


class Broker:
    """A broker at work. One task runs it, and nothing else touches what it has."""

    def __init__(
        self,
        endpoints: Endpoints,
        fleet: Fleet,
        store: Store,
        allow_list: AllowList,
        relay: Relay,
        devices: Socket,
        operators: Socket,
    ) -> None:
        self.endpoints = endpoints
        self.fleet = fleet
        self._store = store
        self._allow_list = allow_list
        self._relay = relay
        self._devices = devices
        self._operators = operators
        self._wishes: dict[bytes, Send] = {}  # routing id → a Desired that is held back for a moment
        self._hold_until = 0.0  # monotonic; set while there is one
        self._complaints: dict[str, float] = {}  # sender of junk → when it was last written about

    async def run(self) -> None:
        """Serve until cancelled. Raises: RelayDied."""
        sockets = (self._devices, self._operators)
        wake = asyncio.Event()
        loop = asyncio.get_running_loop()
        for socket in sockets:
            loop.add_reader(socket, wake.set)
        try:
            next_tick = time.monotonic()
            while True:
                for socket in sockets:
                    await self._drain(socket)
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + TICK
                    self._relay.check()
                    await self.perform(self.fleet.tick(time.monotonic()))
                    self._send_all_wishes()
                await self._wait(wake, next_tick)
        finally:
            for socket in sockets:
                loop.remove_reader(socket)

    async def _wait(self, wake: asyncio.Event, until: float) -> None:
        """Until a message may be there, or until then.

        A socket's descriptor tells of a change once. What came while we sent is seen in EVENTS only.
        """
        wake.clear()
        if any(socket.poll(0) for socket in (self._devices, self._operators)):
            await asyncio.sleep(0)  # let others run
            return
        # Not `wait_for`, which loses a cancellation that comes together with a message.
        alarm = asyncio.get_running_loop().call_later(max(0.0, until - time.monotonic()), wake.set)
        try:
            await wake.wait()
        finally:
            alarm.cancel()

    async def perform(self, effects: Sequence[Effect]) -> None:
        """Do what the fleet decided, in its order."""
        for position, effect in enumerate(effects):
            match effect:
                case Save():
                    if not await self._save(effect, effects[position + 1 :]):
                        return
                case RaiseEpoch():
                    await self._raise_epoch(effect.epoch)
                case Send(message=Desired()):
                    self._hold(effect)
                case Send():
                    self._send_wishes(effect.routing_id)
                    self._send(effect)
                case Answer():
                    self._answer(effect)
                case Allow():
                    self._allow_list.set(effect.domain, effect.keys)
                case Audit():
                    level = logging.ERROR if effect.alarm else logging.INFO
                    logger.log(level, "%s: %s", effect.subject, effect.event)
                case _:
                    assert_never(effect)

    async def _save(self, save: Save, following: Sequence[Effect]) -> bool:
        try:
            await asyncio.to_thread(self._store.commit, save.writes)
        except StoreDown as exc:
            logger.error("%s", exc)
            await self.perform(self.fleet.unsaved(save, following))
            return False
        return True

    async def _raise_epoch(self, epoch: int) -> None:
        """When the store is down the old one stays, and the device asks again."""
        try:
            await asyncio.to_thread(self._store.raise_epoch, epoch)
        except StoreDown as exc:
            logger.error("%s", exc)
        else:
            self.fleet.raised(epoch)

    def _hold(self, send: Send) -> None:
        """A later set takes the place of an earlier one: of changes that come together one set is sent."""
        if not self._wishes:
            self._hold_until = time.monotonic() + HOLD
        self._wishes[send.routing_id] = send

    def _send_wishes(self, routing_id: bytes) -> None:
        """What is held back goes before everything else that the device is told."""
        held = self._wishes.pop(routing_id, None)
        if held is not None:
            self._send(held)

    def _send_all_wishes(self) -> None:
        for routing_id in list(self._wishes):
            self._send_wishes(routing_id)

    def _send(self, send: Send) -> None:
        frames = [send.routing_id, *encode(self.fleet.envelope(send))]
        logger.debug("> %s %r", send.routing_id.hex(), send.message)
        try:
            self._devices.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EHOSTUNREACH):
                raise
            self.fleet.unsent(send, gone=exc.errno == errno.EHOSTUNREACH)
        else:
            self.fleet.sent(send)

    def _answer(self, answer: Answer) -> None:
        """An operator that is gone, or reads nothing, asks again if it still wants to know."""
        envelope = Envelope(answer.message, self.fleet.epoch, request_id=answer.request_id)
        try:
            frames = encode(envelope)
        except BadMessage as exc:
            frames = encode(replace(envelope, message=Error("too_many", f"the reply is too large: {exc}")))
        try:
            self._operators.send_multipart([answer.routing_id, *frames], zmq.DONTWAIT)
        except zmq.ZMQError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EHOSTUNREACH):
                raise
            logger.warning("an operator did not take its answer: %s", exc.strerror)

    async def _drain(self, socket: Socket) -> None:
        """Take what is there, but let others have their turn."""
        for _ in range(DRAIN):
            if self._wishes and (socket is self._devices or time.monotonic() > self._hold_until):
                self._send_all_wishes()
            try:
                # Only a Frame knows whose key brought it.
                frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            peer = _operator(frames) if socket is self._operators else _device(frames)
            await self._receive(peer, [frame.bytes for frame in frames[1:]])
        self._send_all_wishes()

    async def _receive(self, peer: DevicePeer | OperatorPeer, frames: Sequence[bytes]) -> None:
        try:
            envelope = decode(frames)
        except BadMessage as exc:
            self._complain(peer, exc)
            request_id = frames[1] if len(frames) > 1 and len(frames[1]) == 16 else b""
            await self.perform(self.fleet.garbled(peer, request_id, exc))
            return
        logger.debug("< %s %r", peer.routing_id.hex(), envelope.message)
        await self.perform(self.fleet.receive(peer, envelope, time.monotonic()))

    def _complain(self, peer: DevicePeer | OperatorPeer, error: BadMessage) -> None:
        """Write about junk, but not so often that it fills the disk."""
        sender = peer.key if isinstance(peer, DevicePeer) else "an operator"
        now = time.monotonic()
        if now - self._complaints.get(sender, float("-inf")) > COMPLAINT_INTERVAL:
            self._complaints[sender] = now
            logger.warning("%s: not a message: %s", sender, error)


def _device(frames: Sequence[zmq.Frame]) -> DevicePeer:
    # The key of the ZAP reply. A CURVE socket with an enforced domain lets no message through without.
    return DevicePeer(frames[0].bytes, str(frames[-1].get("User-Id")))


def _operator(frames: Sequence[zmq.Frame]) -> OperatorPeer:
    return OperatorPeer(frames[0].bytes)


def _make_private(folder: Path) -> None:
    """Make the data directory, and let nobody else in: who may open the sockets in it commands the fleet."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as exc:
        raise BadConfig("--data-dir", f"{folder}: {exc.strerror}") from exc


def _listen(
    config: BrokerConfig,
    keys: KeyPair,
    devices: Socket,
    operators: Socket,
    relay: Relay,
) -> Endpoints:
    configure(devices, CONTROL_OPTIONS)
    configure(operators, OPERATOR_OPTIONS)
    secure(devices, keys, "devices")
    if config.operators_port is None:
        operators_endpoint = bind(operators, f"ipc://{config.operators_path}", "--data-dir")
    else:
        secure(operators, keys, "operators")
        bound = bind(operators, tcp(config.host, config.operators_port), "--operators-port")
        operators_endpoint = tcp(config.host, port_of(bound))
    predictions, pictures = f"ipc://{config.predictions_path}", f"ipc://{config.pictures_path}"
    host = config.host
    bound = bind(devices, tcp(host, config.devices_port), "--devices-port")
    relay_in = relay.start_in(PREDICTIONS, tcp(host, config.relay_in_port), predictions)
    relay_out = relay.start_out(PREDICTIONS, tcp(host, config.relay_out_port), predictions)
    pictures_in = relay.start_in(PICTURES, tcp(host, config.pictures_in_port), pictures)
    pictures_out = relay.start_out(PICTURES, tcp(host, config.pictures_out_port), pictures)
    return Endpoints(
        devices=tcp(host, port_of(bound)),
        operators=operators_endpoint,
        predictions=predictions,
        relay_in=tcp(host, port_of(relay_in)),
        relay_out=tcp(host, port_of(relay_out)),
        pictures=pictures,
        pictures_in=tcp(host, port_of(pictures_in)),
        pictures_out=tcp(host, port_of(pictures_out)),
    )


def _fleet_config(
    config: BrokerConfig, endpoints: Endpoints, broker_key: str, operator_key: str
) -> FleetConfig:
    devices_port, relay_out_port = port_of(endpoints.devices), port_of(endpoints.relay_out)
    return FleetConfig(
        broker_key=broker_key,
        operator_key=operator_key,
        endpoints=tuple(tcp(host, devices_port) for host in config.hosts),
        subscribe_endpoint=tcp(config.hosts[0], relay_out_port),
        relay=(tcp("*", port_of(endpoints.relay_in)),),
        pictures=(tcp("*", port_of(endpoints.pictures_in)),),
        api=f"http://*:{config.api_port}",
    )
