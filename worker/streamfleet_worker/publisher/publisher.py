"""The publisher's sockets: forwards messages of the cameras and of the agent to PUB sockets.

    cameras, agent ──packets─► Receiver ──► PUB  to the broker's relay, with the device's key
                                        ├─► PUB  ipc, for this host
                                        └─► PUB  tcp, for subscribers with keys from the broker (optional)
    cameras' previews ───────► Receiver ──► PUB  to the relay of previews
                                        └─► PUB  ipc, for this host

It forwards messages unchanged and never blocks: a PUB socket drops messages for a slow peer. Only after its
start it waits, for up to a second, until the subscriptions of the relay have arrived: earlier messages would
reach no subscriber, and they would be the first frames of a file. Previews have lower priority, and separate
sockets and I/O thread. Their subscriptions are reported to the agent at once.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import zmq

from streamfleet_core.peers.connections import descriptor_of
from streamfleet_core.protocol.data_plane import Kind, kind_of
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_core.runtime.curve import CurveKeys, serve
from streamfleet_core.runtime.keepalive import KEEPALIVE
from streamfleet_worker.decisions.topic_subscriptions import TopicSubscriptions
from streamfleet_worker.ipc.child_messages import (
    AllowSubscribers,
    KeepPredictions,
    PublisherConfig,
    PublisherReport,
    Relay,
)
from streamfleet_worker.ipc.fence import Fence
from streamfleet_worker.ipc.handover.packet import Message
from streamfleet_worker.ipc.handover.receiver import Receiver
from streamfleet_worker.publisher.direct_socket import MAX_MESSAGE, DirectSocket
from streamfleet_worker.publisher.replay.keeper import Keeper
from streamfleet_worker.publisher.send_queues import SendQueues
from streamfleet_worker.publisher.zap import ZapHandler

logger = logging.getLogger(__name__)

DOMAIN = "direct"  # of ZAP, for subscribers on the LAN

_AT_ONCE = 256  # messages read before the other sockets have their turn
_HOLD = 1.0  # seconds after the start, for which messages wait for the relay at most
_REBIND = 0.1  # seconds between attempts to bind
# Milliseconds: the first pause and the longest. After a restart of the broker, the whole fleet connects at
# once: previews, which are rarely looked at, come last.
RECONNECT = (100, 2000)
PREVIEWS_RECONNECT = (1000, 8000)
_HANDSHAKE = 5000  # milliseconds

Context = zmq.Context[zmq.Socket[bytes]]
_Socket = zmq.Socket[bytes]
Input = _Socket | int  # a descriptor, for inputs other than ZeroMQ sockets


@dataclass(frozen=True, slots=True)
class _Traffic:
    """A class of messages with separate sockets."""

    kinds: tuple[Kind, ...]
    io_thread: int  # as a bit of the affinity
    waiting: int  # messages that wait for a slow peer; further ones are dropped for it
    at_once: int  # messages read before the other sockets have their turn
    reconnect: tuple[int, int]


_PREDICTIONS = _Traffic((Kind.PRED, Kind.LAST, Kind.STAT), 1, 200, _AT_ONCE, RECONNECT)
_PREVIEWS = _Traffic((Kind.IMG,), 2, 4, 2, PREVIEWS_RECONNECT)  # old previews are worthless


class Publisher:
    """The sockets of one device. Only one thread may use it."""

    def __init__(self, config: PublisherConfig, context: Context, now: float) -> None:
        """Bind the local sockets. Raises: OSError without a fence, zmq.ZMQError if a path cannot be bound."""
        self._config = config
        self._context = context
        self._fence = Fence.open(config.fence_path) if config.fence_path else None
        self.zap_handler = ZapHandler(context, DOMAIN)
        self._receiver = Receiver(config.intake_path)
        self._local = _bound(context, zmq.PUB, _PREDICTIONS, config.local_endpoint)
        self._preview_receiver = Receiver(config.picture_intake_path)
        local_previews = _bound(context, zmq.XPUB, _PREVIEWS, config.local_picture_endpoint)
        self._preview_subscriptions = {local_previews: TopicSubscriptions()}  # by socket that sends previews
        self._relay: _Socket | None = None
        self._preview_relay: _Socket | None = None
        self._relay_to: Relay | None = None
        self._send_queues = SendQueues()  # of `_relay`
        self._hold_until: float | None = now + _HOLD  # monotonic seconds; None: no longer
        self._keeper = None if config.keep is None else Keeper(config.keep, config.device)
        self._direct: DirectSocket | None = None
        self._bind_at = 0.0  # monotonic seconds
        self._duties: dict[Input, Callable[[], None]] | None = None  # None: to be built again
        self._published = self._fenced = self._rejected = 0
        self.watched: tuple[str, ...] = ()  # topics with preview subscribers

    @property
    def report(self) -> PublisherReport:
        """The current state."""
        rejected = self._rejected + self._receiver.disconnected + self._preview_receiver.disconnected
        return PublisherReport(
            self._published,
            self._fenced,
            rejected,
            self.watched,
            cpu=time.process_time(),
            keeping=None if self._keeper is None else self._keeper.keeping,
        )

    @property
    def duties(self) -> Mapping[Input, Callable[[], None]]:
        """The current inputs and the handler of each, in order of priority.

        The same object is returned while they do not change.
        """
        if self._duties is None:
            self._duties = {self.zap_handler.socket: self.zap_handler.answer}
            if self._relay is not None:
                self._duties[self._relay] = self._read_relay_subscriptions
            if self._hold_until is None:
                self._duties[self._receiver.fileno()] = self._forward_predictions
            if self._direct is not None:
                self._duties[self._direct.socket] = self._direct.read_subscriptions
                self._duties[self._direct.connections.monitor] = self._direct.accept_connections
            self._duties |= dict.fromkeys(self._preview_subscriptions, self._read_preview_subscriptions)
            if self._keeper is not None:
                self._duties[self._keeper.fileno()] = self._send_replays
            self._duties[self._preview_receiver.fileno()] = self._forward_previews
        return self._duties

    def _forward_predictions(self) -> None:
        direct = None if self._direct is None else self._direct.socket
        self._forward_all(_PREDICTIONS, self._receiver, (self._local, direct, self._relay))

    def _send_replays(self) -> None:
        """Send what subscribers asked for. It is in the past, so that the fence does not apply."""
        assert self._keeper is not None
        began = time.thread_time()
        direct = None if self._direct is None else self._direct.socket
        may_relay = self._relay_to is not None and self._relay_to.replays
        for message in self._keeper.take():
            for socket in (direct, self._relay if may_relay else None):
                if socket is not None:
                    socket.send_multipart(message, zmq.NOBLOCK)
        self._keeper.sent(time.thread_time() - began, self._send_queues.look())

    def _forward_previews(self) -> None:
        """Forward a few at a time, so that predictions do not wait for them."""
        self._forward_all(_PREVIEWS, self._preview_receiver, tuple(self._preview_subscriptions))

    def _read_preview_subscriptions(self) -> None:
        """Apply new subscriptions to previews."""
        for socket, subscriptions in self._preview_subscriptions.items():
            for _ in range(_AT_ONCE):
                try:
                    message = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if subscriptions.update(message):
                    logger.warning("too many subscriptions to previews: %r is ignored", message[1:])
        self._count_watched()

    def _count_watched(self) -> None:
        watched = frozenset[str]().union(*(each.watched for each in self._preview_subscriptions.values()))
        self.watched = tuple(sorted(watched))

    def maintain(self, now: float) -> float | None:
        """Do what is due, and return the monotonic seconds at which to call it again, if any."""
        if self._hold_until is not None and now >= self._hold_until:
            self._stop_holding()
        if self._config.direct_endpoint and self._direct is None and now >= self._bind_at:
            self._direct = self._bind_direct()
            self._bind_at = now + _REBIND
            self._duties = None
        if self._direct is not None:
            self._direct.maintain(now)
        unbound = self._config.direct_endpoint and self._direct is None
        return min(filter(None, (self._hold_until, self._bind_at if unbound else None)), default=None)

    def connect(self, relay: Relay) -> None:
        """Publish to this relay instead of the former one."""
        if relay == self._relay_to:
            return
        for socket in (self._relay, self._preview_relay):
            if socket is not None:
                self._preview_subscriptions.pop(socket, None)
                socket.close()
        self._relay_to = relay
        self._send_queues.forget()
        self._relay = self._connect(_PREDICTIONS, relay.endpoints, relay.server_key)
        self._preview_relay = self._connect(_PREVIEWS, relay.pictures, relay.server_key)
        if self._preview_relay is not None:
            self._preview_subscriptions[self._preview_relay] = TopicSubscriptions()
        self._duties = None
        self._count_watched()

    def allow(self, allow: AllowSubscribers) -> None:
        """Replace the keys that may subscribe. Connections with other keys are cut."""
        keys = frozenset(allow.keys)
        removed = self.zap_handler.keys - keys
        self.zap_handler.allow(keys)
        if removed and self._direct is not None:
            # ZAP checks keys only at the handshake, so all subscribers have to reconnect.
            logger.info("%d subscriber keys removed, all subscribers reconnect", len(removed))
            self._direct.close()
            self._direct = None
            self._duties = None
            self._bind_at = 0.0

    def keep(self, keep: KeepPredictions) -> None:
        """Change what is kept of pipelines."""
        if self._keeper is not None:
            self._keeper.limit(keep.limits)

    def close(self) -> None:
        """Close all sockets."""
        self._receiver.close()
        self._preview_receiver.close()
        for socket in (self._local, self._relay, self._direct, *self._preview_subscriptions):
            if socket is not None:
                socket.close()
        self.zap_handler.close()
        if self._keeper is not None:
            self._keeper.close()
        if self._fence is not None:
            self._fence.close()

    def _forward_all(self, traffic: _Traffic, receiver: Receiver, to: Sequence[_Socket | None]) -> None:
        for message in receiver.take(traffic.at_once):
            self._forward(traffic, message, to)

    def _forward(self, traffic: _Traffic, message: Message, to: Sequence[_Socket | None]) -> None:
        frames = message[1:]
        kind = _kind(frames)
        if kind not in traffic.kinds:
            self._rejected += 1
            return
        for socket in to:
            if message.fenced and not self._may_emit():
                self._fenced += 1
                if kind is Kind.PRED and self._keeper is not None:
                    self._keeper.lose(frames[0], frames[1])
                return
            if socket is not None:
                socket.send_multipart(frames, zmq.NOBLOCK)
        self._published += 1
        if kind is Kind.PRED and self._keeper is not None:
            self._keeper.keep(*frames)

    def _read_relay_subscriptions(self) -> None:
        """Read subscriptions of the relay, which libzmq applies itself.

        They show that the relay is connected, and some are requests for replays.
        """
        assert self._relay is not None
        self._stop_holding()
        with contextlib.suppress(zmq.Again):
            for _ in range(_AT_ONCE):
                message: zmq.Frame = self._relay.recv(zmq.NOBLOCK, copy=False)
                self._send_queues.note(descriptor_of(message))
                if self._keeper is not None:
                    self._keeper.handle(message.bytes)

    def _stop_holding(self) -> None:
        self._hold_until = None
        self._duties = None

    def _may_emit(self) -> bool:
        return self._fence is not None and self._fence.passes(boot_time())

    def _connect(self, traffic: _Traffic, endpoints: Sequence[str], server_key: str) -> _Socket | None:
        if not endpoints:
            return None
        # A PUB socket on which we can read the subscriptions.
        socket = _socket(self._context, zmq.XPUB, traffic)
        # Do not queue for a relay that is not connected: messages would be outdated. Subscriptions end with
        # their connection.
        socket.immediate = True
        socket.maxmsgsize = MAX_MESSAGE
        socket.reconnect_ivl, socket.reconnect_ivl_max = traffic.reconnect
        try:
            CurveKeys(server_key, KeyPair(self._config.public_key, self._config.secret_key)).apply(socket)
            for endpoint in endpoints:
                socket.connect(endpoint)
        except zmq.ZMQError as exc:
            logger.error("cannot publish to %s: %s", ", ".join(endpoints), exc)
            socket.close()
            return None
        logger.info("publishing to %s", ", ".join(endpoints))
        return socket

    def _bind_direct(self) -> DirectSocket | None:
        socket = _socket(self._context, zmq.XPUB, _PREDICTIONS)
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        socket.maxmsgsize = MAX_MESSAGE  # only subscriptions are received
        socket.rcvhwm = 8  # messages per peer: further ones wait in its own queue until these were counted
        serve(socket, self._config.secret_key, DOMAIN)
        handle = (lambda _message: None) if self._keeper is None else self._keeper.handle
        direct = DirectSocket(socket, self.zap_handler.keep_out, handle)
        try:
            socket.bind(self._config.direct_endpoint)
        except zmq.ZMQError as exc:
            # After a rebind the old socket may hold the port for a moment; otherwise another program has it.
            if not self._bind_at:
                logger.warning("%s cannot be bound yet: %s", self._config.direct_endpoint, exc)
            direct.close()
            return None
        return direct


def _kind(frames: Sequence[bytes]) -> Kind | None:
    """The kind of a message; None: it is invalid."""
    try:
        return kind_of(frames)
    except BadData:
        return None


def _bound(context: Context, kind: int, traffic: _Traffic, endpoint: str) -> _Socket:
    """Bind a socket for this host."""
    socket = _socket(context, kind, traffic)
    socket.maxmsgsize = MAX_MESSAGE  # only subscriptions are received
    socket.bind(endpoint)
    return socket


def _socket(context: Context, kind: int, traffic: _Traffic) -> _Socket:
    socket = context.socket(kind)
    socket.linger = 0
    socket.affinity = traffic.io_thread
    socket.sndhwm = traffic.waiting
    socket.ipv6 = True
    socket.handshake_ivl = _HANDSHAKE
    for option, value in KEEPALIVE.items():
        socket.setsockopt(option, value)
    return socket
