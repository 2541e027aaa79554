"""The publisher process: what the cameras and the agent of a device hand over, goes out on its PUB sockets.

    cameras, agent ──packets─► Intake ──► PUB  to the broker's relay, with the device's key
                                      ├─► PUB  ipc, for this host
                                      └─► PUB  tcp, for subscribers whose keys the broker has named (optional)
    cameras' pictures ───────► Intake ──► PUB  to the relay of pictures
                                      └─► PUB  ipc, for this host

It passes messages on as they are, and blocks for nobody: a PUB socket drops what a slow peer does not take.
Only at its start it waits, a moment at most, until the relay has told what is subscribed to: what is sent
before that reaches nobody, and it would be the first frames of a file. Pictures come after predictions, on
sockets and an I/O thread of their own, and who subscribes to them is told to the agent at once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import zmq

from streamfleet_broker.protocol.data import MAX_BODY, Kind, kind_of
from streamfleet_broker.protocol.errors import BadData
from streamfleet_worker.audience import Audience
from streamfleet_worker.control import (
    REPORT_INTERVAL,
    Allow,
    PublisherConfig,
    PublisherReport,
    Relay,
    Stop,
    receive,
    send,
)
from streamfleet_worker.fence import Fence, boot_time
from streamfleet_worker.handover.intake import Intake
from streamfleet_worker.handover.packet import Message
from streamfleet_worker.lifeline import die_with_parent
from streamfleet_worker.scheduling import let_others_finish
from streamfleet_worker.zap import Doorkeeper

logger = logging.getLogger(__name__)

DOMAIN = "direct"  # of ZAP, for subscribers on the LAN

_AT_ONCE = 256  # messages between two looks at the other sockets
_TOPIC = 128  # bytes, of the longest topic
_SMALL = 4096  # bytes of the largest subscription
_HOLD = 1.0  # seconds after the start, the longest that messages wait for the relay
_REBIND = 0.1  # seconds between attempts to bind
_RECONNECT = (100, 2000)  # milliseconds, from the first pause to the longest
_HANDSHAKE = 5000  # milliseconds
_HEARTBEAT = (2000, 6000)  # milliseconds from one to the next, and until the peer is given up

_Context = zmq.Context[zmq.Socket[bytes]]
_Socket = zmq.Socket[bytes]
_Input = _Socket | int  # a descriptor, of what is no ZeroMQ socket


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

    def __init__(self, config: PublisherConfig, context: _Context, now: float) -> None:
        """Raises: OSError without a fence, or zmq.ZMQError, when a path of this host cannot be bound."""
        self._config = config
        self._context = context
        self._fence = Fence.open(config.fence_path) if config.fence_path else None
        self.doorkeeper = Doorkeeper(context, DOMAIN)
        self._intake = Intake(config.intake_path)
        self._local = _bound(context, zmq.PUB, _PREDICTIONS, config.local_endpoint)
        self._picture_intake = Intake(config.picture_intake_path)
        local_pictures = _bound(context, zmq.XPUB, _PICTURES, config.local_picture_endpoint)
        self._audiences = {local_pictures: Audience()}  # all sockets that pictures go out on
        self._relay: _Socket | None = None
        self._relay_pictures: _Socket | None = None
        self._relay_to: Relay | None = None
        self._hold_until: float | None = now + _HOLD  # monotonic seconds; None: not any more
        self._direct: _Socket | None = None
        self._bind_at = 0.0  # monotonic seconds
        self._duties: dict[_Input, Callable[[], None]] | None = None  # None: something of them has changed
        self._published = self._fenced = self._rejected = 0
        self.watched: tuple[str, ...] = ()  # pipelines whose pictures somebody looks at

    @property
    def report(self) -> PublisherReport:
        """The present state."""
        rejected = self._rejected + self._intake.cut_off + self._picture_intake.cut_off
        return PublisherReport(self._published, self._fenced, rejected, self.watched)

    @property
    def duties(self) -> Mapping[_Input, Callable[[], None]]:
        """Where something may come from now, and what is to be done then; what stands first goes first.

        The same object for as long as it says the same.
        """
        if self._duties is None:
            self._duties = {self.doorkeeper.socket: self.doorkeeper.answer}
            if self._relay is not None:
                self._duties[self._relay] = self._hear_subscriptions
            if self._hold_until is None:
                self._duties[self._intake.fileno()] = self._pass_predictions_on
            self._duties |= dict.fromkeys(self._audiences, self._hear_audiences)
            self._duties[self._picture_intake.fileno()] = self._pass_pictures_on
        return self._duties

    def _pass_predictions_on(self) -> None:
        self._pass_all_on(_PREDICTIONS, self._intake, (self._local, self._direct, self._relay))

    def _pass_pictures_on(self) -> None:
        """Few at a time, so that predictions do not wait for them."""
        self._pass_all_on(_PICTURES, self._picture_intake, tuple(self._audiences))

    def _hear_audiences(self) -> None:
        """Take what has come of who looks at pictures, and who does no more."""
        for socket, audience in self._audiences.items():
            for _ in range(_AT_ONCE):
                try:
                    message = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if audience.hear(message):
                    logger.warning("more pictures are asked for than can be: %r is not shown", message[1:])
        self._count_watched()

    def _count_watched(self) -> None:
        watched = frozenset[str]().union(*(audience.watched for audience in self._audiences.values()))
        self.watched = tuple(sorted(watched))

    def tend(self, now: float) -> float | None:
        """Do what it is time for; the monotonic seconds at which to call again, if ever."""
        if self._hold_until is not None and now >= self._hold_until:
            self._hold_no_longer()
        if self._config.direct_endpoint and self._direct is None and now >= self._bind_at:
            self._direct = self._bind_direct()
            self._bind_at = now + _REBIND
        unbound = self._config.direct_endpoint and self._direct is None
        return min(filter(None, (self._hold_until, self._bind_at if unbound else None)), default=None)

    def connect(self, relay: Relay) -> None:
        """Publish to this relay, instead of the one before."""
        if relay == self._relay_to:
            return
        for socket in (self._relay, self._relay_pictures):
            if socket is not None:
                self._audiences.pop(socket, None)
                socket.close()
        self._relay_to = relay
        self._relay = self._connect(_PREDICTIONS, relay.endpoints, relay.server_key)
        self._relay_pictures = self._connect(_PICTURES, relay.pictures, relay.server_key)
        if self._relay_pictures is not None:
            self._audiences[self._relay_pictures] = Audience()
        self._duties = None
        self._count_watched()

    def allow(self, allow: Allow) -> None:
        """Let exactly these keys subscribe. Who is connected with another key is cut off."""
        keys = frozenset(allow.keys)
        removed = self.doorkeeper.keys - keys
        self.doorkeeper.keys = keys
        if removed and self._direct is not None:
            # ZAP asks at the handshake only, so all have to shake hands again.
            logger.info("%d subscriber keys removed, all subscribers reconnect", len(removed))
            self._direct.close()
            self._direct = None
            self._bind_at = 0.0

    def close(self) -> None:
        """Close all sockets."""
        self._intake.close()
        self._picture_intake.close()
        for socket in (self._local, self._relay, self._direct, *self._audiences):
            if socket is not None:
                socket.close()
        self.doorkeeper.close()
        if self._fence is not None:
            self._fence.close()

    def _pass_all_on(self, traffic: _Traffic, intake: Intake, to: Sequence[_Socket | None]) -> None:
        for message in intake.take(traffic.at_once):
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
        socket.reconnect_ivl, socket.reconnect_ivl_max = _RECONNECT
        try:
            socket.curve_serverkey = server_key.encode()
            socket.curve_publickey = self._config.public_key.encode()
            socket.curve_secretkey = self._config.secret_key.encode()
            for endpoint in endpoints:
                socket.connect(endpoint)
        except zmq.ZMQError as exc:
            logger.error("cannot publish to %s: %s", ", ".join(endpoints), exc)
            socket.close()
            return None
        logger.info("publishing to %s", ", ".join(endpoints))
        return socket

    def _bind_direct(self) -> _Socket | None:
        socket = _socket(self._context, zmq.PUB, _PREDICTIONS)
        socket.maxmsgsize = _SMALL  # subscriptions are all that comes in
        socket.curve_server = True
        socket.curve_secretkey = self._config.secret_key.encode()
        socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        try:
            socket.bind(self._config.direct_endpoint)
        except zmq.ZMQError as exc:
            # After a bounce the old socket may hold the port for a moment; else it is somebody else's.
            if not self._bind_at:
                logger.warning("%s cannot be bound yet: %s", self._config.direct_endpoint, exc)
            socket.close()
            return None
        return socket


def main(config: PublisherConfig, connection: Connection) -> None:
    """The whole life of the process. It ends when it is told to, or when the agent is gone."""
    die_with_parent()
    let_others_finish()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with zmq.Context(io_threads=2) as context:
        publisher = Publisher(config, context, time.monotonic())
        try:
            _serve(publisher, connection)
        except (EOFError, OSError):
            logger.info("%s: the agent is gone", config.device)
        finally:
            publisher.close()


def _serve(publisher: Publisher, connection: Connection) -> None:
    next_report = 0.0
    watched: tuple[str, ...] = ()
    inputs = _Inputs(connection)
    while True:
        now = time.monotonic()
        if now >= next_report or publisher.watched != watched:
            send(connection, publisher.report)
            next_report, watched = now + REPORT_INTERVAL, publisher.watched
        due = publisher.tend(now)
        until = next_report if due is None else min(next_report, due)
        duties = publisher.duties
        for source in inputs.wait(duties, until - now):
            if source != connection.fileno():
                duties[source]()
            elif _obey(publisher, connection):
                break  # the duties may be others now
            else:
                return


class _Inputs:
    """What is waited for. A poller costs more than a wait, so it is kept for as long as the duties stay."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._duties: Mapping[_Input, Callable[[], None]] = {}
        self._poller = zmq.Poller()

    def wait(self, duties: Mapping[_Input, Callable[[], None]], seconds: float) -> list[_Input]:
        """To what something has come, after so long at most.

        The agent first: libzmq never tries again after a refusal, so who is named now must not be refused.
        """
        if duties is not self._duties:
            self._duties, self._poller = duties, zmq.Poller()
            for source in (self._connection.fileno(), *duties):
                self._poller.register(source, zmq.POLLIN)
        return [source for source, _ in self._poller.poll(math.ceil(max(0.0, seconds) * 1000))]


def _obey(publisher: Publisher, connection: Connection) -> bool:
    """Whether to go on."""
    match receive(connection):
        case Stop():
            return False
        case Relay() as relay:
            publisher.connect(relay)
        case Allow() as allow:
            publisher.allow(allow)
    return True


def _is_ours(frames: Sequence[bytes], kinds: Sequence[Kind]) -> bool:
    """Topic, header and body, as the data plane has them for these kinds."""
    topic, _, body = frames
    if len(topic) > _TOPIC or len(body) > MAX_BODY:
        return False
    try:
        return kind_of(frames) in kinds
    except BadData:
        return False


def _bound(context: _Context, kind: int, traffic: _Traffic, endpoint: str) -> _Socket:
    """A socket for this host."""
    socket = _socket(context, kind, traffic)
    socket.maxmsgsize = _SMALL  # subscriptions are all that comes in
    socket.bind(endpoint)
    return socket


def _socket(context: _Context, kind: int, traffic: _Traffic) -> _Socket:
    socket = context.socket(kind)
    socket.linger = 0
    socket.affinity = traffic.io_thread
    socket.sndhwm = traffic.waiting
    socket.ipv6 = True
    socket.tcp_keepalive = 1
    socket.handshake_ivl = _HANDSHAKE
    socket.heartbeat_ivl, socket.heartbeat_timeout = _HEARTBEAT
    socket.heartbeat_ttl = _HEARTBEAT[1]
    return socket
