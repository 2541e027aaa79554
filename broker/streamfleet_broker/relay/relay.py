"""The relays of the data plane: one for predictions and one for previews, each a thread with its own sockets.

    devices' PUB ──▶ XSUB tcp, CURVE relay-in ─▶ admitted? ─┬▶ XPUB predictions.ipc ──▶ api, programs here
                                                            └▶ XPUB tcp, CURVE relay-out ──▶ subscribers

A relay forwards what `Admission` lets the key of a message publish, and grants each subscription what
`Grants` lets its key receive. The deciding thread replaces both as a whole. What a device sends beyond its
budget is dropped first. A peer that breaks a rule which no correct peer comes close to is disconnected and
kept out for a while.

Terminating a context ends its threads, so the relays have a context of their own. Each has its own I/O
thread: previews never delay predictions, and neither delays heartbeats. ZAP is asked in this context.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace

import zmq

from streamfleet_broker.budget import Limits, Reserve
from streamfleet_broker.errors import RelayDied
from streamfleet_broker.fleet.effects import Domain
from streamfleet_broker.fleet.records import Record, Write
from streamfleet_broker.relay.device_budgets import DeviceBudgets
from streamfleet_broker.relay.publish_rules import Admission
from streamfleet_broker.relay.selections import Selecting, Selections
from streamfleet_broker.relay.subscribe_rules import Grants, beginning_with
from streamfleet_broker.relay.unsent_messages import UnsentMessages
from streamfleet_broker.sockets import (
    DATA_OPTIONS,
    PICTURE_OPTIONS,
    PUBLICATION_OPTIONS,
    SUBSCRIPTION_OPTIONS,
    Socket,
    bind,
    configure,
)
from streamfleet_core.peers.allow_list import PENALTY
from streamfleet_core.peers.connections import (
    OVERHEAD,
    Connection,
    Connections,
    descriptor_of,
    number_of,
    unsent,
)
from streamfleet_core.peers.replay import ReplayHolders, ReplayRequest
from streamfleet_core.peers.selection import Selection, SelectionRequest
from streamfleet_core.peers.subscription_reader import Subscription, SubscriptionReader
from streamfleet_core.peers.subscriptions import Change, Subscriptions
from streamfleet_core.protocol.data_plane import (
    GEN_FIELD,
    HEADER_SIZE,
    Flag,
    Kind,
    pipeline_topic,
    replay_note,
    selection_note,
    subject_of,
)
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_DATA_FRAME, MAX_TOPIC
from streamfleet_core.protocol.rates import Bucket, Rate
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.curve import serve

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 5.0  # seconds for each thread, as the whole machine may stand still for some
TICK = 0.5  # seconds between two checks of connections
SWEEP = 2.0  # seconds between two looks at which connections of devices have ended
AT_ONCE = 256  # messages in a row, before the other sockets are polled
SUBSCRIPTIONS_AT_ONCE = 32
# Seconds for which statuses wait for further ones, while they come faster than that: forwarding them one by
# one costs much more. Fewer messages than these at once are few.
GATHER = 0.002
MANY_PUBLISHING = 200  # connections of devices; beyond, statuses wait for longer
GATHER_OF_MANY = 0.004
FEW = 32
MAX_PUBLISHING = 8  # connections of a device
MAX_FRAMES = 128  # of a message; ours have three
MAX_SUBSCRIBING = 32  # connections of a subscriber's key
MAX_SUBSCRIPTIONS = 1024  # of a subscriber's key, over all its connections
# Requests for replays of a subscriber's key. Further ones are not granted: it asks again.
MAX_REPLAYS = 256
# The same while the keys together have so many: half of what one device lets wait is left for others.
FEW_REPLAYS, MANY_REPLAYS = 32, 512
# Requests for the pipelines with some labels: of a key, of all together, and how often a key may ask.
MAX_SELECTIONS, MAX_ALL_SELECTIONS = 16, 256
SELECTING = Rate(2, 32)
MAX_LOCAL = 2048  # connections, and subscriptions of each, of programs on this host
MUTE = 10.0  # seconds within which a subscriber must subscribe
UNREAD = 64 * 1024**2  # bytes of an incomplete message of one key
UNREAD_SUBSCRIPTIONS = 1024**2  # the same of a subscriber
SUBSCRIBING = Rate(200, 5000)  # subscribe and unsubscribe messages of a subscriber's key
LARGE = 16 * 1024  # bytes of a message, many times the usual size
LARGE_WAITING = 64 * 1024**2  # bytes of large messages that may wait for slow subscribers, in total
LARGE_OF_ONE = 16 * 1024**2  # bytes of those of one key, so that one device cannot delay others
COUNT_INTERVAL = 0.1  # seconds between two counts of unread bytes,
COUNT_SHARE = 0.01  # or more, so that counting takes no more than this share of the time
REFUSED = Rate(100, 2000)  # messages that a key may not publish, before it is disconnected
# Messages of one topic of a kind that the api always reads: each source sends one a second.
SPARSE = Rate(64, 512)
LOG_INTERVAL = 10.0  # seconds between two log lines about one key

_NOBLOCK = int(zmq.NOBLOCK)  # plain integers, as enum members are looked up at each use
_MORE = _NOBLOCK | int(zmq.SNDMORE)
_STREAMS = frozenset((b"pred", b"img"))  # kinds with a message per frame
_PREDICTIONS = b"pred"
_REPLAYS = b"v1/replay/"
_STATUSES = b"v1/stat/"
_SELECTIONS = b"v1/select/"
_FLAGS = slice(4, 6)  # of a header
_HOLDERS = int(Flag.HOLDERS).to_bytes(2, "big")
# The key that may publish under a topic, the highest generation, and the budget of kinds that are sparse.
_Admitted = tuple[str, bytes, Bucket | None]
_HERE = ""  # stands for the key of a program on this host, which has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The traffic of one relay. `io_thread` is a bit mask, different for each relay."""

    name: str
    kinds: tuple[Kind, ...]
    in_option: str  # the option of the port for devices
    out_option: str  # the option of the port for subscribers
    socket_options: dict[int, int]
    io_thread: int


PREDICTIONS = Traffic(
    name="relay",
    kinds=(Kind.PRED, Kind.STAT, Kind.LAST),
    in_option="--relay-in-port",
    out_option="--relay-out-port",
    socket_options=DATA_OPTIONS,
    io_thread=1,
)
PICTURES = Traffic(
    name="picture relay",
    kinds=(Kind.IMG,),
    in_option="--pictures-in-port",
    out_option="--pictures-out-port",
    socket_options=PICTURE_OPTIONS,
    io_thread=2,
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for publishing and subscribing."""

    admission: Admission
    grants: Grants

    @classmethod
    def of(cls, records: Iterable[Record]) -> Rules:
        """Derive the rules from all rows of the store. No key may do anything yet."""
        known = tuple(records)
        return cls(Admission.of(known), Grants.of(known))

    def allowing(self, domain: Domain, keys: frozenset[str]) -> Rules:
        """The same rules, with exactly these keys in a domain."""
        match domain:
            case "relay-in":
                return replace(self, admission=self.admission.allowing(keys))
            case "relay-out":
                return replace(self, grants=self.grants.allowing(keys))
            case _:
                return self

    def succeeding(self, before: Rules) -> Rules:
        """The same, so that a reader of the rules before sees that all may have changed."""
        version = before.admission.version + 1
        return replace(self, admission=replace(self.admission, version=version, recent=()))

    def after(self, writes: tuple[Write, ...], now: float) -> Rules:
        """The rules after these writes."""
        return Rules(self.admission.after(writes, now), self.grants.after(writes))


class Relay:
    """All relays. One thread may replace `rules` at any time.

    Args:
        limits: the budget of a device, at all relays together.
        keep_out: called with a key that broke a rule, and the seconds for which it must stay away.
    """

    def __init__(
        self, keys: KeyPair, rules: Rules, limits: Limits, keep_out: Callable[[str, float], None]
    ) -> None:
        self.context: zmq.Context[Socket] = zmq.Context(io_threads=2)
        self.rules = rules
        self.budgets = DeviceBudgets(limits)
        self.keep_out = keep_out
        self._keys = keys
        self._threads: list[threading.Thread] = []

    def start(self, traffic: Traffic, into: str, here: str, out: str) -> tuple[str, str]:
        """Start a relay and return its bound endpoints, for devices and subscribers. Raises: CannotBind."""
        started: Future[tuple[str, str]] = Future()

        def wire(forwarder: Forwarder) -> tuple[str, str]:
            serve(forwarder.source, self._keys.secret, "relay-in")
            serve(forwarder.out.socket, self._keys.secret, "relay-out")
            bind(forwarder.here.socket, here, "--data-dir")
            bound = bind(forwarder.source, into, traffic.in_option)
            return bound, bind(forwarder.out.socket, out, traffic.out_option)

        thread = threading.Thread(
            target=_relay, args=(self, traffic, wire, started), name=traffic.name, daemon=True
        )
        thread.start()
        endpoints = started.result()
        self._threads.append(thread)
        return endpoints

    def check(self) -> None:
        """Check that all relays run. Raises: RelayDied."""
        for thread in self._threads:
            if not thread.is_alive():
                raise RelayDied(thread.name)

    def stop(self) -> None:
        """Terminate the context and so the threads. All other sockets in it must be closed already."""
        # `term` waits until the relays have closed their sockets. A thread gives that a deadline.
        ending = threading.Thread(target=self.context.term, name="relay end", daemon=True)
        ending.start()
        for thread in (*self._threads, ending):
            thread.join(STOP_TIMEOUT)
            if thread.is_alive():
                logger.error("%s did not end within %.0f s", thread.name, STOP_TIMEOUT)


def _relay(
    relay: Relay,
    traffic: Traffic,
    wire: Callable[[Forwarder], tuple[str, str]],
    started: Future[tuple[str, str]],
) -> None:
    """The main function of a relay thread: opens its sockets, forwards messages, and closes them."""
    with contextlib.ExitStack() as closing:
        try:
            forwarder = Forwarder(relay, traffic)
            closing.callback(forwarder.close)
            started.set_result(wire(forwarder))
        except Exception as exc:  # `start` raises it
            started.set_exception(exc)
            return
        try:
            forwarder.run()
        except zmq.ContextTerminated:
            logger.debug("%s ends with its context", traffic.name)
        except Exception:
            logger.exception("%s", traffic.name)


def _spent(admitted: _Admitted) -> bytes:
    """Take a message from the budget of a topic, and return its highest generation; b"" beyond the budget."""
    _, highest, budget = admitted
    return highest if budget is None or budget.take(1, time.monotonic()) else b""


class Sink:
    """An output of a relay, with its connections and subscriptions."""

    def __init__(self, socket: Socket, most: int, *, has_keys: bool) -> None:
        self.socket = socket
        self.connections = Connections(socket, most)
        self.subscriptions = Subscriptions()
        self.reader = SubscriptionReader(socket, has_keys=has_keys)
        self.send = super(zmq.Socket, socket).send  # bypasses the slower wrapper


class Forwarder:
    """A running relay. One thread uses it."""

    def __init__(self, relay: Relay, traffic: Traffic) -> None:
        self._relay = relay
        self._traffic = traffic
        self.source = self._socket(zmq.XSUB)
        self.here = Sink(self._socket(zmq.XPUB), MAX_LOCAL, has_keys=False)
        self.out = Sink(self._socket(zmq.XPUB), MAX_SUBSCRIBING, has_keys=True)
        self._publishers = Connections(self.source, MAX_PUBLISHING)
        self._kinds = frozenset(kind.name.lower().encode("ascii") for kind in traffic.kinds)
        self._rules = relay.rules  # those of the last check of connections
        self._admitted: dict[bytes, _Admitted] = {}  # by topic, as the following rules say
        self._admitted_by = relay.rules.admission
        self._reserves: defaultdict[str, Reserve] = defaultdict(Reserve)  # of the budgets, by key
        self._unsent_messages = UnsentMessages(LARGE_WAITING, LARGE_OF_ONE)
        self._shed_at = 0.0
        self._refused: dict[str, Bucket] = {}
        self._subscribing: dict[str, Bucket] = {}
        self._topics: dict[str, tuple[bytes, ...]] = {}  # limited key → all that it may hear; by these rules
        self._selections = Selections()
        self._selecting: dict[str, Bucket] = {}
        self._replaying = 0  # requests for replays of all subscribers' keys
        self._logged_at: dict[tuple[str, str], float] = {}  # key and subject → time of the last log line
        self._may_gather = False  # the last messages were few, and no predictions
        self._gathered_at = 0.0
        self._tend_at = 0.0
        self._sweep_at = 0.0
        self._count_at = 0.0

    def _socket(self, kind: int) -> Socket:
        socket = self._relay.context.socket(kind)
        options = SUBSCRIPTION_OPTIONS if kind == zmq.XPUB else PUBLICATION_OPTIONS
        affinity = {zmq.AFFINITY: self._traffic.io_thread}
        configure(socket, self._traffic.socket_options | options | affinity)
        return socket

    def run(self) -> None:
        """Run until the context ends. Raises: zmq.ContextTerminated."""
        duties: dict[Socket, Callable[[], None]] = {
            self.here.socket: lambda: self._handle_subscriptions(self.here),
            self.out.socket: lambda: self._handle_subscriptions(self.out),
            self.source: self._forward,
        }
        for connections in (self._publishers, self.here.connections, self.out.connections):
            duties[connections.monitor] = lambda each=connections: each.take_new(time.monotonic())  # type: ignore[misc]
        poller = zmq.Poller()
        for socket in duties:
            poller.register(socket, zmq.POLLIN)
        while True:
            for socket, _ in poller.poll(round(COUNT_INTERVAL * 1000)):
                duties[socket]()
            now = time.monotonic()
            if now >= self._count_at:
                self._count()
            if now >= self._tend_at:
                self._tend_at = now + TICK
                self._tend(now)
            if self._may_gather:
                self._gather(now)

    def _gather(self, now: float) -> None:
        """Let the statuses of a large fleet wait for further ones, if they come one after the other."""
        self._may_gather = False
        pause = GATHER if len(self._publishers) <= MANY_PUBLISHING else GATHER_OF_MANY
        if now - self._gathered_at < pause:
            time.sleep(pause)
            now += pause
        self._gathered_at = now

    def close(self) -> None:
        """Close all sockets."""
        for connections in (self._publishers, self.here.connections, self.out.connections):
            connections.close()
        for socket in (self.source, self.here.socket, self.out.socket):
            socket.close(linger=0)

    # messages ---------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        """Forward waiting messages, up to a limit."""
        relay, receive = self._relay, self.source.recv
        admitted, publishers = self._admitted, self._publishers
        reserves, refill = self._reserves, relay.budgets.refill
        sinks = [sink.send for sink in (self.here, self.out) if sink.subscriptions]
        count, topic = 0, b""
        with contextlib.suppress(zmq.Again):  # no more messages wait
            for count in range(AT_ONCE):  # noqa: B007 - used below
                first: zmq.Frame = receive(_NOBLOCK, False)
                frames = [first]
                while frames[-1].more and len(frames) < 3:
                    frames.append(receive(_NOBLOCK, False))
                if frames[-1].more or len(frames) < 3:
                    self._refuse_shape(frames)
                    continue
                if relay.rules.admission is not self._admitted_by:
                    # At once: a device learns its new generation as soon as the rules have changed.
                    self._forget_changed(relay.rules.admission)
                key, topic, header = str(first.get("User-Id")), first.bytes, frames[1].bytes
                size = len(topic) + len(header) + len(frames[2])
                publishers.read(key, size)
                if publishers.some_are_silent and publishers.is_new(descriptor := descriptor_of(first)):
                    publishers.identify(descriptor, key, number_of(first), time.monotonic())
                reserve = reserves[key]
                if (reserve.messages < 1 or reserve.bytes < size) and not refill(key, reserve, size):
                    continue  # dropped, and counted
                reserve.messages -= 1
                reserve.bytes -= size
                known = admitted.get(topic)
                is_known = known is not None and known[0] == key
                highest = _spent(known) if known and is_known else self._highest(key, topic, header)
                if len(header) != HEADER_SIZE or header[GEN_FIELD] > highest:
                    self._refuse(first, f"generation {header[GEN_FIELD].hex()} under {topic[:MAX_TOPIC]!r}")
                    continue
                if len(frames[2]) > LARGE and not self._may_wait(key, frames):
                    continue
                for send in sinks:
                    send(topic, _MORE)
                    send(header, _MORE)
                    send(frames[2], _NOBLOCK, False)
        self._may_gather = count < FEW and topic.startswith(_STATUSES)

    def _may_wait(self, key: str, frames: list[zmq.Frame]) -> bool:
        """Count a large message while it waits for slow peers. Without room, disconnect those and drop it."""
        held = self._unsent_messages.hold(key, frames[2])
        if held is not None:
            frames[2] = held
            return True
        now = time.monotonic()
        if self._unsent_messages.is_full and now >= self._shed_at:
            self._shed_at = now + TICK
            slow = [
                sink.connections.cut_all(lambda each: unsent(each) > LARGE) for sink in (self.here, self.out)
            ]
            logger.warning("%s: disconnected %d slow subscribers", self._traffic.name, sum(slow))
        return False

    def _highest(self, key: str, topic: bytes, header: bytes) -> bytes:
        """The highest generation that a key may publish under a topic, encoded as in a header."""
        if topic.startswith(_REPLAYS):
            return header[GEN_FIELD] if self._may_replay(key, topic, header) else b""
        try:
            kind, subject = subject_of(topic)
        except BadData:
            return b""
        if kind not in self._kinds:
            return b""
        now, generation = time.monotonic(), self._admitted_by.highest(key, subject)
        if generation is None:
            generation = self._admitted_by.highest_until(key, subject, now)
            return b"" if generation is None else generation.to_bytes(8, "big")
        found = generation.to_bytes(8, "big")
        budget = None if kind in _STREAMS else Bucket(SPARSE)
        if budget is not None:
            budget.take(1, now)
        self._admitted[topic] = (key, found, budget)
        return found

    def _forget_changed(self, admission: Admission) -> None:
        """Use these rules for publishing from now on, and forget what was known of the ones that differ."""
        changed = admission.changed_since(self._admitted_by.version)
        self._admitted_by = admission
        if changed is None:
            self._admitted.clear()
            return
        for subject in changed:
            for kind in self._traffic.kinds:
                self._admitted.pop(pipeline_topic(kind, subject), None)

    def _may_replay(self, key: str, topic: bytes, header: bytes) -> bool:
        """Whether a device may send a prediction again: it had the pipeline in that generation."""
        request = ReplayRequest.parse(topic) if _PREDICTIONS in self._kinds else None
        if header[_FLAGS] == _HOLDERS:  # those are told by the relay alone
            return False
        generation = int.from_bytes(header[GEN_FIELD], "big")
        return request is not None and self._admitted_by.may_replay(key, request.pipeline_id, generation)

    def _refuse_shape(self, frames: list[zmq.Frame]) -> None:
        """Refuse a message with a wrong number of frames, and discard the rest of it."""
        first, last = frames[0], frames[-1]
        count, size = len(frames), sum(map(len, frames))
        while last.more:
            last = self.source.recv(_NOBLOCK, False)
            count += 1
            size += len(last) + OVERHEAD
        key = str(first.get("User-Id"))
        self._publishers.read(key, size)
        if count > MAX_FRAMES:
            self._publishers.identify(descriptor_of(first), key, number_of(first), time.monotonic())
            self._punish(self._publishers, key, f"sends a message of {count} frames")
        else:
            self._refuse(first, "a message that does not have 3 frames")

    def _refuse(self, frame: zmq.Frame, what: str) -> None:
        """Refuse a message that its sender may not publish. It happens for a moment when a pipeline moves."""
        if frame.bytes.startswith(_REPLAYS):  # no fault: the rules may have changed since it sent them first
            return
        now, key = time.monotonic(), str(frame.get("User-Id"))
        connection = self._publishers.identify(descriptor_of(frame), key, number_of(frame), now)
        if key not in self._admitted_by.keys and connection is not None:
            self._publishers.cut(connection)
        elif not self._refused.setdefault(key, Bucket(REFUSED)).take(1, now):
            self._punish(self._publishers, key, "publishes messages that it is not allowed to publish")
        else:
            self._log_throttled(key, "refused", what)

    # subscriptions ----------------------------------------------------------------------------------------

    def _handle_subscriptions(self, sink: Sink) -> None:
        """Handle waiting subscriptions, up to a limit."""
        if self._relay.rules is not self._rules:  # new subscriptions are granted by the present rules
            self._tend(time.monotonic())
        ended = False
        for _ in range(SUBSCRIPTIONS_AT_ONCE):
            subscription = sink.reader.read()
            if subscription is None:
                break
            if subscription.descriptor < 0:
                ended = True
                continue
            self._subscribe(sink, subscription)
        if ended:
            self._sweep(sink)

    def _subscribe(self, sink: Sink, subscription: Subscription) -> None:
        now, topic, begins = time.monotonic(), subscription.topic, subscription.begins
        key = subscription.key or _HERE
        sink.connections.read(key, len(topic) + 1)
        connection = sink.connections.identify(subscription.descriptor, key, subscription.number, now)
        if connection is None:
            return
        if subscription.is_foreign:
            self._punish(sink.connections, key, "sends an invalid subscription", connection)
            return
        is_removed = sink is self.out and key not in self._rules.grants.keys  # since it was let in
        # Not safe: what follows would happen to another peer. This one connects again, if it may.
        if is_removed or not subscription.is_safe:
            sink.connections.cut(connection)
            return
        if key != _HERE and not self._subscribing.setdefault(key, Bucket(SUBSCRIBING)).take(1, now):
            self._punish(sink.connections, key, "subscribes too often", connection)
            return
        if begins and (why := self._too_much(sink, connection, topic)):
            self._punish(sink.connections, key, why, connection)
            return
        if begins:
            granted = self._granted_here(sink, key, topic)
            change = sink.subscriptions.subscribe(connection.serial, topic, granted)
        else:
            change = sink.subscriptions.unsubscribe(connection.serial, topic)
        for each in change.granted:  # applies to the sender of the last message
            sink.socket.setsockopt(zmq.SUBSCRIBE, each)
        for each in change.revoked:
            sink.socket.setsockopt(zmq.UNSUBSCRIBE, each)
        self._notify_devices(sink, change)
        for each in change.granted:
            self._tell_holders(sink, each)
            self._tell_selection(each)

    def _tell_holders(self, sink: Sink, topic: bytes) -> None:
        """Tell who asks for a replay which devices may answer. It learns so of those that are away."""
        request = ReplayRequest.parse(topic) if _PREDICTIONS in self._kinds else None
        if request is not None:
            holders = ReplayHolders(self._rules.admission.replayers(request.pipeline_id))
            sink.socket.send_multipart(
                (topic, replay_note(request.start, Flag.HOLDERS), holders.encode()), _NOBLOCK
            )

    def _granted_here(self, sink: Sink, key: str, topic: bytes) -> tuple[bytes, ...]:
        """The topics that a peer of an output hears for one that it asks for."""
        if topic.startswith(_SELECTIONS):
            return self._select(sink, key, topic)
        return (topic,) if sink is self.here else self._granted(key, topic)

    def _select(self, sink: Sink, key: str, topic: bytes) -> tuple[bytes, ...]:
        """The topic of a selection, if it is granted. It is asked for again otherwise."""
        request = SelectionRequest.parse(topic) if _PREDICTIONS in self._kinds else None
        if request is None or (sink is self.out and key not in self._rules.grants.keys):
            return ()
        if not self._selecting.setdefault(key, Bucket(SELECTING)).take(1, time.monotonic()):
            return ()
        most = MAX_ALL_SELECTIONS if sink is self.here else MAX_SELECTIONS
        grants = self._rules.grants
        found = grants.selected(key, dict(request.required), grants.labels)
        wanted = Selecting(sink.socket, key, request, found)
        return (topic,) if self._selections.add(topic, wanted, most, MAX_ALL_SELECTIONS) else ()

    def _tell_selection(self, topic: bytes) -> None:
        """Send the pipelines of a selection to who asked for it."""
        wanted = self._selections.find(topic)
        if wanted is not None:
            wanted.told += 1
            note = (topic, selection_note(wanted.told), Selection.of(wanted.pipelines).encode())
            wanted.socket.send_multipart(note, _NOBLOCK)

    def _too_much(self, sink: Sink, connection: Connection, topic: bytes) -> str:
        """The rule that a subscription breaks, "" if none."""
        asked = sink.subscriptions.asked
        if len(topic) > MAX_TOPIC:
            return f"subscribes to a topic of {len(topic)} bytes"
        if sink is self.here:
            count, most = len(asked(connection.serial)), MAX_LOCAL
        else:
            assert connection.key is not None
            count = sum(len(asked(each.serial)) for each in sink.connections.of(connection.key))
            most = MAX_SUBSCRIPTIONS
        return f"has more than {most} subscriptions" if count >= most else ""

    def _notify_devices(self, sink: Sink, change: Change) -> None:
        """Forward new and ended subscriptions to the devices."""
        if sink is self.out:
            self._replaying += sum(topic.startswith(_REPLAYS) for topic in change.first)
            self._replaying -= sum(topic.startswith(_REPLAYS) for topic in change.last)
        other = self.out if sink is self.here else self.here
        for topic in change.last:
            self._selections.remove(topic)
        for flag, topics in ((b"\1", change.first), (b"\0", change.last)):
            for topic in topics:
                if topic.startswith(_SELECTIONS):
                    continue  # no device answers
                if not other.subscriptions.has_receiver(topic):
                    self.source.send(flag + topic, _NOBLOCK)

    # connections ------------------------------------------------------------------------------------------

    def _tend(self, now: float) -> None:
        """Disconnect peers that lost their permission, and subscribers that never subscribed."""
        rules, before = self._relay.rules, self._rules
        self._rules = rules
        self._publishers.take_new(now)
        gone = before.admission.keys - rules.admission.keys
        if gone:
            for key in gone:
                self._reserves.pop(key, None)
            # The key of silent connections is unknown. They lose nothing when they are closed.
            self._publishers.cut_all(lambda each: each.key not in rules.admission.keys)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP
            self._publishers.sweep()
        out = self.out.connections
        out.take_new(now)
        if rules.grants is not before.grants:
            for topic in self._selections.after(rules.grants, before.grants):
                self._tell_selection(topic)
            known, self._topics = self._topics, {}
            out.cut_all(
                lambda each: each.key is not None and not self._still_granted(each.key, each.serial, known)
            )
        out.cut_all(lambda each: each.key is None and now - each.accepted > MUTE)
        for sink in (self.here, self.out):
            self._sweep(sink)

    def _count(self) -> None:
        """Disconnect senders of messages without an end."""
        began, worked = time.monotonic(), time.thread_time()
        out = self.out.connections
        for connections, keys in (
            (self._publishers, self._publishers.count(UNREAD, MAX_DATA_FRAME)),
            (out, out.count(UNREAD_SUBSCRIPTIONS)),
        ):
            for key in keys:
                self._punish(connections, key, "sends a message without an end")
        # Of its own work, not of waiting for other threads: meanwhile such a message would become whole.
        took = time.thread_time() - worked
        self._count_at = began + max(COUNT_INTERVAL, took / COUNT_SHARE)

    def _granted(self, key: str, asked: bytes) -> tuple[bytes, ...]:
        """The topics that a key hears, of those that it asks for."""
        grants = self._rules.grants
        request = ReplayRequest.parse(asked)
        if request is not None:
            most = MAX_REPLAYS if self._replaying < MANY_REPLAYS else FEW_REPLAYS
            may_ask = grants.may_ask(key, request.pipeline_id) and self._replays(key, asked) < most
            return (asked,) if may_ask else ()
        if not grants.is_limited(key):
            return grants.prefixes(key, asked, self._traffic.kinds)
        return beginning_with(asked, self._topics_of(key)) if key in grants.keys else ()

    def _replays(self, key: str, beside: bytes) -> int:
        """How many requests for replays a key has been granted, beside this one."""
        asked = (self.out.subscriptions.asked(each.serial) for each in self.out.connections.of(key))
        return sum(
            topic != beside and bool(granted) and topic.startswith(_REPLAYS)
            for topics in asked
            for topic, granted in topics.items()
        )

    def _topics_of(self, key: str) -> tuple[bytes, ...]:
        """The topics that a limited key may receive."""
        found = self._topics.get(key)
        if found is None:
            found = self._topics[key] = self._rules.grants.topics(key, self._traffic.kinds)
        return found

    def _still_granted(self, key: str, peer: int, known: dict[str, tuple[bytes, ...]]) -> bool:
        """Whether a key receives exactly what it is granted. Otherwise it is disconnected and reconnects.

        Args:
            known: the topics of limited keys, before the rules changed.
        """
        grants = self._rules.grants
        if key not in grants.keys:
            return False
        if grants.is_limited(key) and self._topics_of(key) == known.get(key):
            return True
        return all(
            self._is_right(key, asked, granted)
            for asked, granted in self.out.subscriptions.asked(peer).items()
        )

    def _is_right(self, key: str, asked: bytes, granted: tuple[bytes, ...]) -> bool:
        """Whether a subscription receives what it may by the present rules."""
        if asked.startswith(_SELECTIONS):
            return True  # what it gets is told again
        request = ReplayRequest.parse(asked)
        if request is None:
            return granted == self._granted(key, asked)
        # One that was not granted is made again in any case.
        return not granted or self._rules.grants.may_ask(key, request.pipeline_id)

    def _sweep(self, sink: Sink) -> None:
        """End the subscriptions of closed connections."""
        for gone in sink.connections.sweep():
            self._notify_devices(sink, sink.subscriptions.leave(gone.serial))

    def _punish(
        self, connections: Connections, key: str, why: str, connection: Connection | None = None
    ) -> None:
        """Disconnect a key and keep it out. Of programs on this host, disconnect only the one."""
        self._log_throttled(key, "disconnected, as it", why)
        if key == _HERE:
            assert connection is not None
            connections.cut(connection)
            return
        self._relay.keep_out(key, PENALTY)
        connections.cut_all(lambda each: each.key == key)

    def _log_throttled(self, key: str, what: str, why: str) -> None:
        """Log about a key, but not so often that the log fills the disk."""
        now = time.monotonic()
        if now - self._logged_at.get((key, what), float("-inf")) > LOG_INTERVAL:
            self._logged_at[key, what] = now
            known = self._rules.admission.devices.get(key) or self._rules.grants.name_of(key)
            logger.warning("%s: %s: %s %s", self._traffic.name, known, what, why)
