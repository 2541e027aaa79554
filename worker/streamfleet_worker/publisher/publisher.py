"""The publisher's sockets: what the cameras and the agent of a device hand over, goes out on its PUB sockets.

    cameras, agent ──packets─► Receiver ──► PUB  to the broker's relay, with the device's key
                                        ├─► PUB  ipc, for this host
                                        └─► PUB  tcp, for subscribers whose keys the broker named (optional)
    cameras' pictures ───────► Receiver ──► PUB  to the relay of pictures
                                        └─► PUB  ipc, for this host

It passes messages on as they are, and blocks for nobody: a PUB socket drops what a slow peer does not take.
Only at its start it waits, a moment at most, until the relay has told what is subscribed to: what is sent
before that reaches nobody, and it would be the first frames of a file. Pictures come after predictions, on
sockets and an I/O thread of their own, and who subscribes to them is told to the agent at once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import zmq

from streamfleet_core.protocol.data_plane import Kind, kind_of
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.curve import CurveKeys, serve
from streamfleet_core.runtime.keepalive import KEEPALIVE
from streamfleet_worker.decisions.topic_subscriptions import TopicSubscriptions
from streamfleet_worker.ipc.child_messages import AllowSubscribers, PublisherConfig, PublisherReport, Relay
from streamfleet_worker.ipc.fence import Fence, boot_time
from streamfleet_worker.ipc.handover.packet import Message
from streamfleet_worker.ipc.handover.receiver import Receiver
from streamfleet_worker.publisher.direct_socket import MAX_MESSAGE, Direct
from streamfleet_worker.publisher.zap import ZapHandler

logger = logging.getLogger(__name__)

DOMAIN = "direct"  # of ZAP, for subscribers on the LAN

_AT_ONCE = 256  # messages between two looks at the other sockets
_HOLD = 1.0  # seconds after the start, the longest that messages wait for the relay
_REBIND = 0.1  # seconds between attempts to bind
_RECONNECT = (100, 2000)  # milliseconds, from the first pause to the longest
_HANDSHAKE = 5000  # milliseconds

Context = zmq.Context[zmq.Socket[bytes]]
_Socket = zmq.Socket[bytes]
Input = _Socket | int  # a descriptor, of what is no ZeroMQ socket


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What goes one way, on sockets of its own."""

    kinds: tuple[Kind, ...]
    io_thread: int  # a bit
    waiting: int  # messages for one slow peer, before what comes next is dropped for it
    at_once: int  # messages between two looks at the other sockets


_PREDICTIONS = _Traffic((Kind.PRED, Kind.LAST, Kind.STAT), 1, 200, _AT_ONCE)
_PICTURES = _Traffic((Kind.IMG,), 2, 4, 2)  # an old picture is worth nothing


class Publisher:
    """The sockets of one device. One thread uses it."""

    def __init__(self, config: PublisherConfig, context: Context, now: float) -> None:
        """Raises: OSError without a fence, or zmq.ZMQError, when a path of this host cannot be bound."""
        self._config = config
        self._context = context
        self._fence = Fence.open(config.fence_path) if config.fence_path else None
        self.zap_handler = ZapHandler(context, DOMAIN)
        self._receiver = Receiver(config.intake_path)
        self._local = _bound(context, zmq.PUB, _PREDICTIONS, config.local_endpoint)
        self._picture_receiver = Receiver(config.picture_intake_path)
        local_pictures = _bound(context, zmq.XPUB, _PICTURES, config.local_picture_endpoint)
        self._picture_subscriptions = {
            local_pictures: TopicSubscriptions()
        }  # all sockets that pictures go out on
        self._relay: _Socket | None = None
        self._relay_pictures: _Socket | None = None
        self._relay_to: Relay | None = None
        self._hold_until: float | None = now + _HOLD  # monotonic seconds; None: not any more
        self._direct: Direct | None = None
        self._bind_at = 0.0  # monotonic seconds
        self._duties: dict[Input, Callable[[], None]] | None = None  # None: something of them has changed
        self._published = self._fenced = self._rejected = 0
        self.watched: tuple[str, ...] = ()  # pipelines whose pictures somebody looks at

    @property
    def report(self) -> PublisherReport:
        """The present state."""
        rejected = self._rejected + self._receiver.disconnected + self._picture_receiver.disconnected
        return PublisherReport(self._published, self._fenced, rejected, self.watched)

    @property
    def duties(self) -> Mapping[Input, Callable[[], None]]:
        """Where something may come from now, and what is to be done then; what stands first goes first.

        The same object for as long as it says the same.
        """
        if self._duties is None:
            self._duties = {self.zap_handler.socket: self.zap_handler.answer}
            if self._relay is not None:
                self._duties[self._relay] = self._hear_subscriptions
            if self._hold_until is None:
                self._duties[self._receiver.fileno()] = self._pass_predictions_on
            if self._direct is not None:
                self._duties[self._direct.socket] = self._direct.hear
                self._duties[self._direct.connections.monitor] = self._direct.meet
            self._duties |= dict.fromkeys(self._picture_subscriptions, self._read_picture_subscriptions)
            self._duties[self._picture_receiver.fileno()] = self._pass_pictures_on
        return self._duties

    def _pass_predictions_on(self) -> None:
        direct = None if self._direct is None else self._direct.socket
        self._pass_all_on(_PREDICTIONS, self._receiver, (self._local, direct, self._relay))

    def _pass_pictures_on(self) -> None:
        """Few at a time, so that predictions do not wait for them."""
        self._pass_all_on(_PICTURES, self._picture_receiver, tuple(self._picture_subscriptions))

    def _read_picture_subscriptions(self) -> None:
        """Take what has come of who looks at pictures, and who does no more."""
        for socket, subscriptions in self._picture_subscriptions.items():
            for _ in range(_AT_ONCE):
                try:
                    message = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if subscriptions.hear(message):
                    logger.warning("more pictures are asked for than can be: %r is not shown", message[1:])
        self._count_watched()

    def _count_watched(self) -> None:
        watched = frozenset[str]().union(*(each.watched for each in self._picture_subscriptions.values()))
        self.watched = tuple(sorted(watched))

    def tend(self, now: float) -> float | None:
        """Do what it is time for; the monotonic seconds at which to call again, if ever."""
        if self._hold_until is not None and now >= self._hold_until:
            self._hold_no_longer()
        if self._config.direct_endpoint and self._direct is None and now >= self._bind_at:
            self._direct = self._bind_direct()
            self._bind_at = now + _REBIND
            self._duties = None
        if self._direct is not None:
            self._direct.tend(now)
        unbound = self._config.direct_endpoint and self._direct is None
        return min(filter(None, (self._hold_until, self._bind_at if unbound else None)), default=None)

    def connect(self, relay: Relay) -> None:
        """Publish to this relay, instead of the one before."""
        if relay == self._relay_to:
            return
        for socket in (self._relay, self._relay_pictures):
            if socket is not None:
                self._picture_subscriptions.pop(socket, None)
                socket.close()
        self._relay_to = relay
        self._relay = self._connect(_PREDICTIONS, relay.endpoints, relay.server_key)
        self._relay_pictures = self._connect(_PICTURES, relay.pictures, relay.server_key)
        if self._relay_pictures is not None:
            self._picture_subscriptions[self._relay_pictures] = TopicSubscriptions()
        self._duties = None
        self._count_watched()

    def allow(self, allow: AllowSubscribers) -> None:
        """Let exactly these keys subscribe. Who is connected with another key is cut off."""
        keys = frozenset(allow.keys)
        removed = self.zap_handler.keys - keys
        self.zap_handler.allow(keys)
        if removed and self._direct is not None:
            # ZAP asks at the handshake only, so all have to shake hands again.
            logger.info("%d subscriber keys removed, all subscribers reconnect", len(removed))
            self._direct.close()
            self._direct = None
            self._duties = None
            self._bind_at = 0.0

    def close(self) -> None:
        """Close all sockets."""
        self._receiver.close()
        self._picture_receiver.close()
        for socket in (self._local, self._relay, self._direct, *self._picture_subscriptions):
            if socket is not None:
                socket.close()
        self.zap_handler.close()
        if self._fence is not None:
            self._fence.close()

    def _pass_all_on(self, traffic: _Traffic, receiver: Receiver, to: Sequence[_Socket | None]) -> None:
        for message in receiver.take(traffic.at_once):
            self._pass_on(traffic, message, to)

    def _pass_on(self, traffic: _Traffic, message: Message, to: Sequence[_Socket | None]) -> None:
        frames = message[1:]
        if not _is_ours(frames, traffic.kinds):
            self._rejected += 1
            return
        for socket in to:
            if message.fenced and not self._may_emit():
                self._fenced += 1
                return
            if socket is not None:
                socket.send_multipart(frames, zmq.NOBLOCK)
        self._published += 1

    def _hear_subscriptions(self) -> None:
        """They are libzmq's to obey; here they only show that the relay is there: nothing waits any more."""
        assert self._relay is not None
        self._hold_no_longer()
        with contextlib.suppress(zmq.Again):
            for _ in range(_AT_ONCE):
                self._relay.recv(zmq.NOBLOCK)

    def _hold_no_longer(self) -> None:
        self._hold_until = None
        self._duties = None

    def _may_emit(self) -> bool:
        return self._fence is not None and self._fence.passes(boot_time())

    def _connect(self, traffic: _Traffic, endpoints: Sequence[str], server_key: str) -> _Socket | None:
        if not endpoints:
            return None
        socket = _socket(self._context, zmq.XPUB, traffic)  # a PUB that lets us see the subscriptions
        # What could not be sent is not sent later: it would be the past. And with a connection its
        # subscriptions end.
        socket.immediate = True
        socket.maxmsgsize = MAX_MESSAGE
        socket.reconnect_ivl, socket.reconnect_ivl_max = _RECONNECT
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

    def _bind_direct(self) -> Direct | None:
        socket = _socket(self._context, zmq.XPUB, _PREDICTIONS)
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        socket.maxmsgsize = MAX_MESSAGE  # subscriptions are all that comes in
        socket.rcvhwm = 8  # messages a peer: who floods waits in its own queue until they are counted
        serve(socket, self._config.secret_key, DOMAIN)
        direct = Direct(socket, self.zap_handler.keep_out)
        try:
            socket.bind(self._config.direct_endpoint)
        except zmq.ZMQError as exc:
            # After a bounce the old socket may hold the port for a moment; else it is somebody else's.
            if not self._bind_at:
                logger.warning("%s cannot be bound yet: %s", self._config.direct_endpoint, exc)
            direct.close()
            return None
        return direct


def _is_ours(frames: Sequence[bytes], kinds: Sequence[Kind]) -> bool:
    """Topic, header and body, as the data plane has them for these kinds."""
    try:
        return kind_of(frames) in kinds
    except BadData:
        return False


def _bound(context: Context, kind: int, traffic: _Traffic, endpoint: str) -> _Socket:
    """A socket for this host."""
    socket = _socket(context, kind, traffic)
    socket.maxmsgsize = MAX_MESSAGE  # subscriptions are all that comes in
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
