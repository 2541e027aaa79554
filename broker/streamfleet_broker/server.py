"""The broker's sockets. It decides nothing: `fleet` does.

One asyncio task owns the sockets, the fleet and the store, so no locks are needed. It takes a message,
performs the effects that the fleet returns in order, and only then takes the next message.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import zmq
from typing_extensions import ParamSpec, assert_never

from streamfleet_broker.budget import Budgets, data_limits
from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.errors import BadConfig, BadKey, Fenced, StoreDown
from streamfleet_broker.fleet.devices import DevicePeer, OperatorPeer
from streamfleet_broker.fleet.effects import Answer, Effect, LogEvent, RaiseEpoch, Save, Send, SetAllowedKeys
from streamfleet_broker.fleet.fleet import Fleet
from streamfleet_broker.fleet.records import DeviceRecord, Record, SubscriberRecord
from streamfleet_broker.fleet.state import FleetConfig
from streamfleet_broker.keys import KEYS, SystemRandomSource, load_or_make
from streamfleet_broker.leadership.lease import Lease
from streamfleet_broker.leadership.not_leading import NotLeading
from streamfleet_broker.relay.relay import PICTURES, PREDICTIONS, Relay, Rules
from streamfleet_broker.sockets import (
    CONTROL_OPTIONS,
    OPERATOR_OPTIONS,
    Socket,
    bind,
    configure,
    port_of,
    tcp,
)
from streamfleet_broker.storage.sqlite_store import SqliteStore, remedies
from streamfleet_broker.storage.store import Store
from streamfleet_broker.zap import ZapHandler
from streamfleet_core.peers.allow_list import PENALTY, AllowList
from streamfleet_core.peers.connections import OVERHEAD, Connections, descriptor_of, number_of
from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.messages import Desired, Enrol, Error, Hello, Request
from streamfleet_core.protocol.requests import SMALL_CHANGES, Plane
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_core.runtime.curve import serve
from streamfleet_core.runtime.pinned_tls import parse_fingerprint
from streamfleet_core.runtime.small_file import read_small

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

DRAIN = 256  # messages of one socket in a row, before timers get their turn
TOGETHER = 16  # changes that share one write
# Seconds between two looks at the messages of devices: of a large fleet, several are there at each. Otherwise
# waking up for each of them would cost more than handling it.
GATHER = 0.01
BETWEEN = 8  # messages of devices between two looks at those of operators
HOLD = 0.02  # seconds for which the desired state of a device waits for further changes
LOG_INTERVAL = 10.0  # seconds between two log lines about malformed messages of one sender
LAST_WORD = 2.0  # seconds before the connections of a removed device are closed, for a last message
MAX_CONNECTIONS = 8  # of one device
MAX_FRAMES = 128  # of a message; ours have four, with the address that libzmq adds
UNREAD = 16 * 1024**2  # bytes of an incomplete message of one device
_NOBLOCK = int(zmq.NOBLOCK)  # plain integers, as enum members are looked up at each use
_MORE = _NOBLOCK | int(zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
IDLE = 600.0  # seconds of silence after which the budgets of a key are full and dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The endpoints of a broker, with their actual ports."""

    devices: str
    operators: str
    predictions: str
    relay_in: str
    relay_out: str
    pictures: str
    pictures_in: str
    pictures_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSockets:
    """The open sockets of a broker, which outlive the times in which it leads."""

    config: BrokerConfig
    keys: KeyPair
    operator_key: str  # public
    endpoints: Endpoints
    allow_list: AllowList
    zap_handlers: tuple[ZapHandler, ...]
    relay: Relay
    devices: Socket
    operators: Socket
    connections: Connections


@contextlib.asynccontextmanager
async def open_broker(config: BrokerConfig) -> AsyncIterator[Broker]:
    """Open a broker that listens and leads; its `run` serves. Raises: BrokerError."""
    make_private(config.data_dir)
    with contextlib.closing(SqliteStore(config.data_dir)) as store:
        keys, operator_keys = (_key(config.data_dir, name, store.records) for name in KEYS)
        async with open_sockets(config, keys, operator_keys.public) as opened:
            broker = await lead(opened, store)
            for zap_handler in opened.zap_handlers:
                zap_handler.start()
            yield broker


@contextlib.asynccontextmanager
async def open_sockets(config: BrokerConfig, keys: KeyPair, operator_key: str) -> AsyncIterator[OpenSockets]:
    """Open sockets that listen and admit no client yet: start the ZAP handlers. Raises: BrokerError."""
    # Closed in reverse order: a context ends after its last socket.
    async with contextlib.AsyncExitStack() as closing:
        context: zmq.Context[Socket] = zmq.Context(io_threads=2)
        closing.callback(context.term)
        allow_list = AllowList()
        limits = data_limits(config.device_messages, config.device_bytes)
        relay = Relay(keys, Rules.of(()), limits, allow_list.keep_out)
        closing.push_async_callback(asyncio.to_thread, relay.stop)
        # Bind the ZAP handlers before any socket listens. They answer once the allowed keys are known.
        zap_handlers = (
            ZapHandler(context, allow_list, "control"),
            ZapHandler(relay.context, allow_list, "relay"),
        )
        for zap_handler in zap_handlers:
            closing.push_async_callback(zap_handler.stop)
        devices, operators = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        closing.callback(devices.close, linger=0)
        connections = Connections(devices, MAX_CONNECTIONS)
        closing.callback(connections.close)
        closing.callback(operators.close, linger=0)
        yield OpenSockets(
            config=config,
            keys=keys,
            operator_key=operator_key,
            endpoints=_listen(config, keys, devices, operators, relay),
            allow_list=allow_list,
            zap_handlers=zap_handlers,
            relay=relay,
            devices=devices,
            operators=operators,
            connections=connections,
        )


async def lead(opened: OpenSockets, store: Store) -> Broker:
    """A broker that leads the fleet of a store."""
    config = _fleet_config(opened.config, opened.endpoints, opened.keys.public, opened.operator_key)
    opened.relay.rules = Rules.of(store.records).succeeding(opened.relay.rules)
    fleet = Fleet(
        config,
        store.epoch,
        store.records,
        SystemRandomSource(),
        now=time.monotonic(),
        unix_time=time.time(),
    )
    broker = Broker(opened, fleet, store, tick=config.tick)
    await broker.perform(fleet.start())
    return broker


class Broker:
    """A running broker. One task owns it.

    Args:
        store: of the leader; None while another broker leads.
        tick: seconds between two looks at the time.
    """

    def __init__(
        self, opened: OpenSockets, fleet: Fleet | NotLeading, store: Store | None, *, tick: float
    ) -> None:
        self.endpoints = opened.endpoints
        self.fleet = fleet
        self._store = store
        self._lease = None if store is None else store.lease
        self._allow_list = opened.allow_list
        self._relay = opened.relay
        self._devices = devices = opened.devices
        self._operators = operators = opened.operators
        # That of a ZeroMQ socket never changes, and costs a slow call.
        self._descriptors = {socket: socket.fileno() for socket in (devices, operators)}
        self._connections = opened.connections  # of devices
        self._tick_interval = tick  # seconds
        self._allowed: frozenset[str] = frozenset()  # keys of devices
        self._cut_at: dict[str, float] = {}  # revoked key → when its connections are closed
        self._held: dict[bytes, Send] = {}  # routing id → a Desired that is delayed for a moment
        self._hold_until = 0.0  # monotonic; set while there is one
        self._logged_at: dict[str, float] = {}  # sender of malformed messages → time of the last log line
        self._look_at = 0.0  # monotonic; when messages of devices are looked at next
        self._budgets = Budgets()  # of the control plane
        self._dropped: Counter[str] = Counter()  # messages beyond them since the last tick, by key

    @property
    def epoch(self) -> int:
        """The epoch of the leader."""
        return self.fleet.epoch

    async def run(self) -> None:
        """Serve until cancelled. Raises: RelayDied, Fenced."""
        renewing = (
            None if self._lease is None else asyncio.create_task(self._renew(self._lease), name="lease")
        )
        try:
            await self._run()
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)

    async def _run(self) -> None:
        next_tick = time.monotonic()
        while True:
            self._check_lease()
            await self._serve_operators()
            await self._serve_devices()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + self._tick_interval
                self._relay.check()
                await self._tick(time.monotonic())
                await self._tidy()
            await self._wait(next_tick)

    async def _wait(self, until: float) -> None:
        """Wait until a message may be there, or until the given time.

        The descriptor of a ZeroMQ socket is edge-triggered: EVENTS must be checked after each send. It stays
        readable until then, so it is only watched here: otherwise the loop would spin while the store writes.
        """
        now = time.monotonic()
        sockets = [self._operators]
        if now < self._look_at:
            until = min(until, self._look_at)
        else:
            sockets.append(self._devices)
        if any(map(_has_message, sockets)):
            await asyncio.sleep(0)  # let others run
            return
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        # Not `wait_for`, which can lose a cancellation that coincides with a message.
        alarm = loop.call_later(max(0.0, until - now), wake.set)
        descriptors = [self._descriptors[socket] for socket in sockets]
        for descriptor in descriptors:
            loop.add_reader(descriptor, wake.set)
        try:
            await wake.wait()
        finally:
            alarm.cancel()
            for descriptor in descriptors:
                loop.remove_reader(descriptor)

    def _check_lease(self) -> None:
        """Stop where another broker may lead. Raises: Fenced."""
        if self._lease is not None and not self._lease.holds(boot_time()):
            raise Fenced(self.endpoints.devices, "its lease was not renewed")

    async def _renew(self, lease: Lease) -> None:
        """Renew the lease until it is over."""
        while lease.holds(boot_time()):
            await asyncio.sleep(lease.renew_at() - boot_time())
            lease.tried(boot_time())
            assert self._store is not None
            try:
                await in_thread(self._store.renew)
            except (StoreDown, Fenced) as exc:  # the second is noticed with the next message or tick
                logger.warning("%s", exc)

    async def perform(self, effects: Sequence[Effect]) -> None:
        """Perform effects in order. Raises: Fenced."""
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
                    self._send_held(effect.routing_id)
                    self._send(effect)
                case Answer():
                    self._answer(effect)
                case SetAllowedKeys():
                    self._set_allowed_keys(effect)
                case LogEvent():
                    level = logging.ERROR if effect.severity == "error" else logging.INFO
                    logger.log(level, "%s: %s", effect.subject, effect.event)
                case _:
                    assert_never(effect)

    async def _save(self, save: Save, following: Sequence[Effect]) -> bool:
        assert self._store is not None
        try:
            await in_thread(self._store.commit, save.writes)
        except StoreDown as exc:
            logger.error("%s", exc)
            await self.perform(self.fleet.commit_failed(save, following))
            return False
        self._relay.rules = self._relay.rules.after(save.writes, time.monotonic())
        return True

    def _set_allowed_keys(self, allowed: SetAllowedKeys) -> None:
        self._allow_list.set(allowed.domain, allowed.keys)
        self._relay.rules = self._relay.rules.allowing(allowed.domain, allowed.keys)
        if allowed.domain == "devices":
            taken = dict.fromkeys(self._allowed - allowed.keys, time.monotonic() + LAST_WORD)
            self._cut_at = {key: at for key, at in (self._cut_at | taken).items() if key not in allowed.keys}
            self._allowed = allowed.keys

    def _cut_connections(self, now: float) -> None:
        """Close the connections of revoked keys, and silent connections, whose key is unknown."""
        self._connections.take_new(now)
        for key in self._connections.count(UNREAD):
            logger.error("%s sends a message without an end: disconnected", key)
            self._cut_off(key)
        over = [key for key, at in self._cut_at.items() if now >= at]
        for key in over:
            del self._cut_at[key]
        if over:
            self._connections.cut_all(lambda each: each.key is None or each.key in over)
        self._connections.sweep()

    def _cut_off(self, key: str) -> int:
        """Close the connections of a key, and keep it out for a while. Return how many there were."""
        self._allow_list.keep_out(key, PENALTY)
        return self._connections.cut_all(lambda each: each.key == key)

    async def _tidy(self) -> None:
        """Merge the journal into the database once the store is idle."""
        if self._store is not None and self._store.is_due(time.monotonic()):
            try:
                await in_thread(self._store.tidy)
            except StoreDown as exc:
                logger.error("%s", exc)

    async def _raise_epoch(self, epoch: int) -> None:
        """Raise the epoch. If the store is down, the old one stays and the device tries again."""
        assert self._store is not None
        try:
            await in_thread(self._store.raise_epoch, epoch)
        except StoreDown as exc:
            logger.error("%s", exc)
        else:
            self.fleet.epoch_committed(epoch)

    def _hold(self, send: Send) -> None:
        """Delay a Desired. A later one replaces it, so that simultaneous changes become one message."""
        if not self._held:
            self._hold_until = time.monotonic() + HOLD
        self._held[send.routing_id] = send

    def _send_held(self, routing_id: bytes) -> None:
        """Send the delayed Desired of a device, before any other message to it."""
        held = self._held.pop(routing_id, None)
        if held is not None:
            self._send(held)

    def _send_all_held(self) -> None:
        for routing_id in list(self._held):
            self._send_held(routing_id)

    def _send(self, send: Send) -> None:
        envelope = self.fleet.envelope(send)
        if envelope is None:  # its session ended while it was held back
            return
        frames = [send.routing_id, *encode(envelope)]
        logger.debug("> %s %r", send.routing_id.hex(), send.message)
        try:
            _send_frames(self._devices, frames)
        except zmq.ZMQError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EHOSTUNREACH):
                raise
            self.fleet.unsent(send, gone=exc.errno == errno.EHOSTUNREACH)
        else:
            self.fleet.sent(send)

    def _answer(self, answer: Answer) -> None:
        """Reply to an operator. One that is gone or does not read has to ask again."""
        envelope = Envelope(answer.message, epoch=self.fleet.epoch, request_id=answer.request_id)
        try:
            frames = encode(envelope)
        except BadMessage as exc:
            frames = encode(replace(envelope, message=Error("too_many", f"the reply is too large: {exc}")))
        try:
            _send_frames(self._operators, [answer.routing_id, *frames])
        except zmq.ZMQError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EHOSTUNREACH):
                raise
            logger.warning("an operator did not take its reply: %s", exc.strerror)

    async def _tick(self, now: float) -> None:
        await self._overspent("control", self._dropped, now)
        await self._overspent("data", self._relay.budgets.take_dropped(), now)
        self._dropped.clear()
        self._budgets.forget(now - IDLE)
        self._relay.budgets.forget(now - IDLE)
        self._cut_connections(now)
        await self.perform(self.fleet.tick(now))
        self._send_all_held()

    async def _overspent(self, plane: Plane, dropped: Counter[str], now: float) -> None:
        """Tell the fleet of messages that were dropped, by key."""
        for key, count in dropped.items():
            if key not in self._relay.rules.admission.keys:
                self._cut_off(key)  # quarantined, or not enrolled: it has nothing to say
            await self.perform(self.fleet.overspent(key, plane, count, now))

    async def _serve_operators(self) -> None:
        """Handle the waiting messages of operators, up to a limit. Changes in a row share one write."""
        together: list[tuple[OperatorPeer, Envelope]] = []
        for _ in range(DRAIN):
            if self._held and time.monotonic() > self._hold_until:
                self._send_all_held()
            frames = _taken(self._operators)
            if frames is None:
                break
            peer = OperatorPeer(frames[0].bytes)
            envelope = await self._decoded(peer, frames[1:])
            if envelope is None:
                continue
            if _is_change(envelope):
                together.append((peer, envelope))
                if len(together) < TOGETHER:
                    continue
            await self._change_together(together)
            if not _is_change(envelope):
                await self.perform(self.fleet.receive(peer, envelope, time.monotonic()))
        await self._change_together(together)
        self._send_all_held()

    async def _change_together(self, together: list[tuple[OperatorPeer, Envelope]]) -> None:
        """Make the changes that wait, and forget them."""
        if together:
            messages = together.copy()
            together.clear()
            await self.perform(self.fleet.receive_together(messages, time.monotonic()))

    async def _serve_devices(self) -> None:
        """Handle the waiting messages of devices, with those of operators in between, which hardly wait."""
        for count in range(DRAIN):
            if self._held:
                self._send_all_held()
            frames = _taken(self._devices, MAX_FRAMES)
            if frames is None:
                break
            self._look_at = time.monotonic() + GATHER
            if self._lease is not None:
                self._check_lease()  # an acknowledgement would keep what another broker moves running
            # The key of the ZAP reply. A CURVE socket with an enforced domain accepts no message without it.
            peer = DevicePeer(frames[0].bytes, str(frames[-1].get("User-Id")))
            size = sum(map(len, frames))
            descriptor = descriptor_of(frames[-1])
            if self._connections.is_new(descriptor):
                self._connections.identify(descriptor, peer.key, number_of(frames[-1]), time.monotonic())
            self._connections.read(peer.key, size + OVERHEAD * len(frames))
            if frames[-1].more:
                await self._pass_over(peer.key, frames[-1])
            elif self._budgets.admits(peer.key, size, time.monotonic()):
                await self._receive(peer, frames[1:])
            else:
                self._dropped[peer.key] += 1
            if count % BETWEEN == 0 and _has_message(self._operators):
                await self._serve_operators()
        self._send_all_held()

    async def _pass_over(self, key: str, last: zmq.Frame) -> None:
        """Disconnect a sender of too many frames. Operators do not wait until the rest is read."""
        self._dropped[key] += 1
        if self._cut_off(key):  # otherwise it was disconnected before
            logger.error("%s sends a message of more than %d frames: disconnected", key, MAX_FRAMES)
        while last.more:
            for last in _taken(self._devices, DRAIN) or ():
                self._connections.read(key, len(last) + OVERHEAD)
            await self._serve_operators()

    async def _receive(self, peer: DevicePeer, frames: Sequence[zmq.Frame]) -> None:
        envelope, now = await self._decoded(peer, frames), time.monotonic()
        if envelope is None:
            return
        # A broker that does not lead refuses them without a write.
        begins = isinstance(envelope.message, Hello | Enrol) and self._store is not None
        if begins and not self._budgets.admits_session(peer.key, now):
            self._dropped[peer.key] += 1
            return
        await self.perform(self.fleet.receive(peer, envelope, now))

    async def _decoded(self, peer: DevicePeer | OperatorPeer, frames: Sequence[zmq.Frame]) -> Envelope | None:
        """Decode a message. A malformed one is refused here."""
        content = [frame.bytes for frame in frames]
        try:
            envelope = decode(content)
        except BadMessage as exc:
            self._log_malformed(peer, exc)
            request_id = content[1] if len(content) > 1 and len(content[1]) == 16 else b""
            await self.perform(self.fleet.receive_malformed(peer, request_id, exc))
            return None
        logger.debug("< %s %r", peer.routing_id.hex(), envelope.message)
        return envelope

    def _log_malformed(self, peer: DevicePeer | OperatorPeer, error: BadMessage) -> None:
        """Log malformed messages, but not so often that the log fills the disk."""
        sender = peer.key if isinstance(peer, DevicePeer) else "an operator"
        now = time.monotonic()
        if now - self._logged_at.get(sender, float("-inf")) > LOG_INTERVAL:
            self._logged_at[sender] = now
            logger.warning("%s: not a message: %s", sender, error)


def _is_change(envelope: Envelope) -> bool:
    return isinstance(envelope.message, Request) and envelope.message.op in SMALL_CHANGES


async def in_thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in a thread, and wait for its end even when cancelled: a store in use must not be closed."""
    doing = asyncio.ensure_future(asyncio.to_thread(do, *args, **kwargs))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        while not doing.done():  # a second signal cancels this wait, too
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({doing})
        raise


def _has_message(socket: Socket) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _POLLIN)


def _taken(socket: Socket, most: float = math.inf) -> list[zmq.Frame] | None:
    """The next message, if any, up to `most` frames. Only a Frame has the key of its sender."""
    try:
        frames: list[zmq.Frame] = [socket.recv(_NOBLOCK, copy=False)]
    except zmq.Again:
        return None
    while frames[-1].more and len(frames) < most:
        frames.append(socket.recv(_NOBLOCK, copy=False))
    return frames


def _send_frames(socket: Socket, frames: Sequence[bytes]) -> None:
    """Send a message, all of it or nothing. Raises: zmq.ZMQError."""
    send = super(zmq.Socket, socket).send  # bypasses the slower wrapper
    for frame in frames[:-1]:
        send(frame, _MORE)
    send(frames[-1], _NOBLOCK)


def _key(folder: Path, name: str, records: Sequence[Record]) -> KeyPair:
    """A key pair of the data directory. It is created for a new fleet only. Raises: BadKey."""
    path = folder / name
    known = sum(isinstance(record, DeviceRecord | SubscriberRecord) for record in records)
    if known and not path.exists():
        raise BadKey(path, f"there is none, and {known} devices and programs rely on it; {remedies(folder)}")
    return load_or_make(path)


def make_private(folder: Path) -> None:
    """Create the data directory for its owner only: its sockets give control over the fleet."""
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
    serve(devices, keys.secret, "devices")
    if config.operators_port is None:
        operators_endpoint = bind(operators, f"ipc://{config.operators_path}", "--data-dir")
    else:
        serve(operators, keys.secret, "operators")
        bound = bind(operators, tcp(config.host, config.operators_port), "--operators-port")
        operators_endpoint = tcp(config.host, port_of(bound))
    predictions, pictures = f"ipc://{config.predictions_path}", f"ipc://{config.pictures_path}"
    host = config.host
    bound = bind(devices, tcp(host, config.devices_port), "--devices-port")
    ports = tcp(host, config.relay_in_port), tcp(host, config.relay_out_port)
    relay_in, relay_out = relay.start(PREDICTIONS, ports[0], predictions, ports[1])
    ports = tcp(host, config.pictures_in_port), tcp(host, config.pictures_out_port)
    pictures_in, pictures_out = relay.start(PICTURES, ports[0], pictures, ports[1])
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


def _told_by(file: Path | None) -> str:
    """The fingerprint in a file of the api, "" if there is none. It may change, so it is read each time."""
    try:
        return "" if file is None else parse_fingerprint(read_small(file).decode("ascii"))
    except (OSError, ValueError):
        return ""


def _fleet_config(
    config: BrokerConfig, endpoints: Endpoints, broker_key: str, operator_key: str
) -> FleetConfig:
    devices_port, relay_out_port = port_of(endpoints.devices), port_of(endpoints.relay_out)
    return FleetConfig(
        broker_key=broker_key,
        operator_key=operator_key,
        endpoints=tuple(tcp(host, devices_port) for host in config.hosts),
        subscribe_endpoints=tuple(tcp(host, relay_out_port) for host in config.hosts),
        relay=(tcp("*", port_of(endpoints.relay_in)),),
        pictures=(tcp("*", port_of(endpoints.pictures_in)),),
        api=f"http://*:{config.api_port}",
        api_fingerprint=lambda: _told_by(config.api_fingerprint),
        heartbeat=config.heartbeat,
        lease=config.lease,
        spare=config.spare,
        displace_after=config.displace_after,
    )
