"""The fleet: who is here, what is wished for, where it runs. Pure: messages and `now` in, effects out.

A device:    new ──Hello──▶ syncing ──Beat──▶ ready ◀──Beat──▶ suspect ──lease ends──▶ lost
             any ──Bye──▶ left; two boots that alternate ──▶ quarantined; lost, left ──Hello──▶ syncing
A pipeline:  one record, whose `gen` rises with every change of device, spec or want.

Everything with an effect on a device is the whole set of its wishes, sent until it says that it applied them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
from typing_extensions import assert_never

from streamfleet_broker.effects import Allow, Answer, Audit, Domain, Effect, RaiseEpoch, Save, Send
from streamfleet_broker.events import EventLog, Standing
from streamfleet_broker.ledger import Ledger
from streamfleet_broker.placement import Candidate, choose, meets
from streamfleet_broker.protocol.control import MAX_BODY, NO_SESSION, Envelope, encode
from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import (
    Ack,
    Beat,
    BrokerMessage,
    Bye,
    Desired,
    Enrol,
    Enrolled,
    Error,
    ErrorCode,
    Hello,
    RefusalCode,
    Refused,
    Reply,
    Request,
    Subscribers,
    Welcome,
)
from streamfleet_broker.protocol.requests import (
    AddDevice,
    AddSubscriber,
    Changed,
    ChangePipeline,
    CheckTicket,
    CreatePipeline,
    DeviceState,
    DeviceView,
    Events,
    FleetView,
    GetDevice,
    GetEvents,
    GetFleet,
    GetPipeline,
    LabelDevice,
    ListDevices,
    ListModels,
    ListPipelines,
    OperatorRequest,
    PipelineView,
    Put,
    PutModel,
    PutPipeline,
    RemoveDevice,
    RemoveModel,
    RestartPipeline,
    Subscription,
    Token,
    unpack_request,
)
from streamfleet_broker.protocol.tokens import JoinToken
from streamfleet_broker.protocol.values import Labels, Observed, ObservedState, observed_digest
from streamfleet_broker.records import (
    DeviceRecord,
    FloorRecord,
    KeyRecord,
    PipelineRecord,
    Record,
    SubscriberRecord,
    TokenRecord,
)
from streamfleet_broker.views import (
    Home,
    confirmed,
    is_waiting,
    spelled,
    status,
    view,
    whereabouts,
    why_nowhere,
)

MAX_PIPELINES = 64  # a device, whatever its capacity
MAX_SUBSCRIBERS = 1000  # their keys travel in one message
MAX_KEYS = 10_000  # under which requests may be made again
MAX_LISTENERS = 64  # who wait for events
KEY_LIFE = 86_400.0  # seconds
# The wishes of a device travel in one message too. What is left of it is for a `want` or a `gen` that grows.
MAX_WISHES = MAX_BODY - MAX_PIPELINES * 24  # bytes
MASS = 3  # silent devices that, being most of the fleet, mean that it is our network
MAX_EPOCH_STEP = 1_000_000  # starts of a broker; no device may use up the numbers that there are
RETURNS = 3  # of a replaced boot within the clone window: two machines have one key

PipelineChange = CreatePipeline | PutPipeline | RestartPipeline | ChangePipeline
Query = ListPipelines | GetPipeline | ListDevices | GetDevice | ListModels | CheckTicket | GetFleet


@dataclass(frozen=True, slots=True)
class DevicePeer:
    """A sender on the devices' plane: where it is, and the CURVE key that libzmq vouches for."""

    routing_id: bytes
    key: str


@dataclass(frozen=True, slots=True)
class OperatorPeer:
    """A sender on the operators' plane."""

    routing_id: bytes


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, as Z85 text."""

    public: str
    secret: str = field(repr=False)


class Supply(Protocol):
    """What must be random, and therefore cannot be made here."""

    def session(self) -> bytes:
        """16 bytes."""

    def ticket(self) -> str:
        """A secret of 128 bits or more."""

    def key_pair(self) -> KeyPair:
        """A new key pair."""


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """What the fleet is told at its start. Times in seconds."""

    broker_key: str  # public
    operator_key: str  # public
    endpoints: tuple[str, ...]  # of the devices' ROUTER, as join tokens name it
    subscribe_endpoint: str  # of the relay, as subscribers reach it
    relay: tuple[str, ...]  # where devices publish; `*` is the host through which they reached us
    pictures: tuple[str, ...]  # the same for pictures
    api: str  # where devices fetch models; the same
    beat: float = 1.0
    probe: float = 1.25  # silent for so long, a device is spoken to: is its connection gone?
    suspect: float = 3.0
    lease: float = 10.0
    self_stop: float = 8.0  # before the lease ends, or two devices run one pipeline
    grace: float = 12.0  # after a start nobody is lost
    mass_window: float = 30.0
    mass_hold: float = 300.0  # then what is lost in mass is moved all the same
    clone_window: float = 60.0


@dataclass(slots=True)
class _Session:
    id: bytes
    routing_id: bytes  # messages from anywhere else are refused
    boot: bytes
    ticket: str
    received: int = 0  # the last seq that was accepted
    sent: int = 0  # the last seq that was sent
    applied_rev: int = 0  # what the device says it applied
    resend: bool = False  # wishes could not be queued


@dataclass(slots=True)
class _Device:
    name: str
    rev: int  # of the last change to its wishes
    state: DeviceState = "new"
    told_epoch: int = 0  # the epoch of the last answer to it
    session: _Session | None = None  # there is one in `syncing` and `ready`, and mostly in `suspect`
    heard: float | None = None  # since then the lease runs
    lost_at: float = float("-inf")
    observed: dict[str, Observed] = field(default_factory=dict)  # the last list that it sent
    capacity: int = 0
    agent: str = ""
    publish: str = ""  # its own PUB socket, as subscribers reach it
    replaced: dict[bytes, float] = field(default_factory=dict)  # boots, and when another took over
    returns: list[float] = field(default_factory=list)  # when a replaced boot took over again

    def silent(self, now: float) -> float | None:
        """Seconds since it was last heard; None when it never was, or only by a broker before this one."""
        return None if self.heard is None or not self.agent else now - self.heard


@dataclass(frozen=True, slots=True)
class _Asker:
    """Who asked, and under which id it waits for the answer."""

    routing_id: bytes
    request_id: bytes


@dataclass(slots=True)
class _Waiter:
    """An operator who waits until the device has done it."""

    asker: _Asker
    record: PipelineRecord  # as it was wished for
    reply: Callable[[PipelineView, bool], Changed | Put]  # to be told, and whether the device has done it
    deadline: float


@dataclass(frozen=True, slots=True)
class _Listener:
    """An operator who waits for what happens next."""

    request: GetEvents
    deadline: float


class Fleet:
    """All decisions of the broker.

    Each entry point returns the effects that the server must perform, in their order.

    Args:
        epoch: larger than that of every broker before this one, as far as the store knows.
        records: all rows of the store.
        now: any clock in seconds that only rises; the same one everywhere.
        unix_time: the wall clock at `now`. It is read once, so that a jump ends no token.
    """

    def __init__(
        self,
        config: FleetConfig,
        epoch: int,
        records: Iterable[Record],
        supply: Supply,
        *,
        now: float,
        unix_time: float,
    ) -> None:
        self.epoch = epoch
        self._config = config
        self._supply = supply
        self._started = self._ticked = now
        self._grace_until = now + config.grace
        self._raise_after = now  # so that no device makes all sessions begin anew all the time
        self._wall_ahead = unix_time - now
        self._rev = 1
        self._subscribers_rev = 1
        self._mass = False  # most of the fleet fell silent: nothing is moved

        self._ledger = Ledger(records)
        self._devices = {name: _Device(name, self._rev) for name in self._ledger.devices}
        self._sessions: dict[bytes, _Device] = {}  # exactly the sessions in `_devices`
        self._tickets: dict[str, str] = {}  # ticket → device: exactly those of the sessions
        # Pipeline → the rev in which its holder was told to stop it or to give it up, until it confirms.
        self._released: dict[str, int] = {}
        self._waiters: dict[str, list[_Waiter]] = {}
        self._listeners: dict[_Asker, _Listener] = {}
        self._events = EventLog()

        # Of the step under way; empty between steps.
        self._first: list[Effect] = []  # hold whether or not the store does
        self._changed: set[str] = set()  # devices whose wishes changed
        self._then: list[Effect] = []  # true only once the writes are durable
        # Pipelines and devices that may stand otherwise than before; kept until the next step looks.
        self._stirred: set[str] = set()
        self._stirred_devices: set[str] = set()

        for name, device in self._devices.items():
            # Whoever has pipelines is expected back; nothing depends on the others.
            if self._ledger.placed[name] or self._ledger.leaving[name]:
                device.state, device.heard = "suspect", now
            else:
                device.state = "left" if self._ledger.devices[name].left else "lost"
        for name in self._devices:
            self._events.assume("device", name, self._device_standing(name))
        for pipeline_id, record in self._ledger.pipelines.items():
            self._events.assume("pipeline", pipeline_id, self._standing(record))

    # entry points -----------------------------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """Before anything else."""
        self._then += [
            Allow("operators", frozenset({self._config.operator_key})),
            *(self._allow(domain) for domain in ("devices", "relay-in", "relay-out")),
        ]
        return self._finish(self._ticked)

    def receive(self, peer: DevicePeer | OperatorPeer, envelope: Envelope, now: float) -> list[Effect]:
        """A message came."""
        if isinstance(peer, OperatorPeer):
            self._receive_from_operator(peer, envelope, now)
        else:
            self._receive_from_device(peer, envelope, now)
        return self._finish(now)

    def garbled(self, peer: DevicePeer | OperatorPeer, request_id: bytes, error: BadMessage) -> list[Effect]:
        """Bytes came that are no message."""
        if isinstance(peer, OperatorPeer):
            self._then.append(Answer(peer.routing_id, request_id, Error("bad_message", str(error))))
        else:
            code: RefusalCode = "version" if error.expected.startswith("version") else "bad_message"
            self._refuse(peer, NO_SESSION, code, str(error))
        return self._finish(self._ticked)

    def tick(self, now: float) -> list[Effect]:
        """Time passed. Call it twice a second."""
        if now - self._ticked > self._config.suspect:
            # It was us who slept: beats may wait in the sockets, and nobody got an answer meanwhile.
            self._grace_until = max(self._grace_until, now + self._config.grace)
        self._ticked = now
        self._expire_tokens(now)
        self._watch(now)
        self._weigh_losses(now)
        self._release_gone(now)
        self._place(now)
        self._give_up_waiting(now)
        self._look_at_all()
        return self._finish(now)

    def envelope(self, send: Send) -> Envelope:
        """What fences a message to a device. Refusals and enrolments stand outside the session's sequence."""
        if isinstance(send.message, Refused | Enrolled):
            return Envelope(send.message, self.epoch, send.session)
        session = self._sessions[send.session].session
        assert session is not None
        return Envelope(send.message, self.epoch, send.session, session.sent + 1)

    def sent(self, send: Send) -> None:
        """The message was given to the network."""
        session = self._addressed(send)
        if session is not None and not isinstance(send.message, Refused):
            session.sent += 1

    def unsent(self, send: Send, *, gone: bool) -> None:
        """The message was not sent: the peer is gone, or its queue is full."""
        session = self._addressed(send)
        if session is None:
            return
        if gone:
            device = self._sessions[session.id]
            device.state = "suspect"
            self._stir_device(device.name)
        elif isinstance(send.message, Desired | Subscribers):
            session.resend = True

    def _addressed(self, send: Send) -> _Session | None:
        """The session that a message belongs to. Whoever is refused may have quoted a session of another."""
        device = self._sessions.get(send.session)
        session = None if device is None else device.session
        return session if session is not None and session.routing_id == send.routing_id else None

    def unsaved(self, save: Save, dropped: Iterable[Effect]) -> list[Effect]:
        """The store failed: what `save` would have written is undone, and `dropped` will not be performed.

        Revisions stay as high as they were: devices get their wishes again, which does no harm.
        """
        self._ledger.undo(save.writes)
        self._events.undo_step()
        for name in self._devices.keys() - self._ledger.devices.keys():
            del self._devices[name]
        for name in self._ledger.devices.keys() - self._devices.keys():
            state: DeviceState = "left" if self._ledger.devices[name].left else "lost"
            self._devices[name] = _Device(name, self._rev, state)
        answers = [
            Answer(effect.routing_id, effect.request_id, _STORE_DOWN)
            for effect in dropped
            if isinstance(effect, Answer)
        ]
        for pipeline_id, waiters in list(self._waiters.items()):
            record = self._ledger.pipelines.get(pipeline_id)
            for waiter in list(waiters):
                if record is None or record.version < waiter.record.version:
                    self._dismiss(waiter)
                    answers.append(Answer(waiter.asker.routing_id, waiter.asker.request_id, _STORE_DOWN))
        return list(answers)

    def raised(self, epoch: int) -> None:
        """This epoch is durable. Sessions of the last one are refused at their next beat, and begin anew."""
        assert epoch > self.epoch
        self.epoch = epoch

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert [self._first, self._changed, self._then] == [[], set(), []]
        self._ledger.check()
        self._events.check()
        assert len(self._ledger.keys) <= MAX_KEYS
        assert len(self._listeners) <= MAX_LISTENERS
        assert self._devices.keys() == self._ledger.devices.keys()
        sessions = {d.session.id: d for d in self._devices.values() if d.session is not None}
        assert self._sessions == sessions
        assert self._tickets == {
            device.session.ticket: name
            for name, device in self._devices.items()
            if device.session is not None
        }
        for name, device in self._devices.items():
            assert device.name == name
            assert 1 <= device.rev <= self._rev
            assert (device.session is not None) or device.state not in ("syncing", "ready"), name
            assert device.session is None or device.state in ("syncing", "ready", "suspect"), name
            assert device.heard is not None or device.state in ("new", "lost", "left"), name
            assert len(self._ledger.placed[name]) <= MAX_PIPELINES
            encode(Envelope(self._desired(device)))
        assert self._waiters.keys() <= self._ledger.pipelines.keys()
        assert all(self._waiters.values())

    # steps ------------------------------------------------------------------------------------------------

    def _finish(self, now: float) -> list[Effect]:
        self._notice(now)
        effects = self._first
        if writes := self._ledger.writes():
            effects.append(Save(writes))
        for name in sorted(self._changed):
            if (session := self._devices[name].session) is not None:
                effects.append(Send(session.routing_id, self._desired(self._devices[name]), session.id))
        effects += self._then
        self._first, self._changed, self._then = [], set(), []
        return effects

    def _change(self, record: PipelineRecord) -> None:
        """Write a pipeline, new or changed, and tell every device that this concerns."""
        before = self._ledger.pipelines.get(record.pipeline_id)
        self._ledger.write(record)
        self._touch({record.device, before.device if before is not None else None})
        self._stirred.add(record.pipeline_id)
        taken = before is not None and record.leaving not in (None, before.leaving)
        if taken or (record.want == "stop" and record.leaving is None):
            self._released[record.pipeline_id] = self._rev

    def _remove(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """The pipeline is no more. `done`: it certainly emits nothing any longer."""
        self._ledger.remove(record)
        if record.gen > self._ledger.floor:
            self._ledger.write(FloorRecord(record.gen))
        self._touch({record.device})
        self._stirred.add(record.pipeline_id)
        self._released.pop(record.pipeline_id, None)
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            self._release(waiter, self._view(record, now), done=done and waiter.record.want == "stop")

    def _touch(self, names: set[str | None]) -> None:
        if not self._changed:
            self._rev += 1
        for name in names - {None}:
            assert name is not None
            self._devices[name].rev = self._rev
            self._changed.add(name)

    def _allow(self, domain: Domain) -> Allow:
        match domain:
            case "devices":
                return Allow(domain, frozenset(self._ledger.owners.keys() | self._ledger.tokens.keys()))
            case "relay-in":
                return Allow(domain, frozenset(self._ledger.owners))
            case "relay-out":
                return Allow(domain, frozenset({*self._subscriber_keys(), self._config.operator_key}))
            case "operators":
                return Allow(domain, frozenset({self._config.operator_key}))

    def _subscriber_keys(self) -> tuple[str, ...]:
        return tuple(record.public_key for record in self._ledger.subscribers.values())

    # the devices' plane -----------------------------------------------------------------------------------

    def _receive_from_device(self, peer: DevicePeer, envelope: Envelope, now: float) -> None:
        message = envelope.message
        if isinstance(message, Enrol):
            self._enrol(peer, message)
            return
        name = self._ledger.owners.get(peer.key)
        if name is None:
            # ZAP let the key in: it is a one-time key, or it was a device's when the connection was made.
            code: RefusalCode = "unknown_key" if peer.key in self._ledger.tokens else "revoked"
            self._refuse(peer, envelope.session, code, "enrol first")
            return
        device = self._devices[name]
        follows = self._compare_epochs(device, envelope, now)
        match message:
            case Hello() if not follows:
                self._refuse(peer, NO_SESSION, "stale_session", "you saw this epoch before: hello again")
            case Hello():
                self._greet(peer, device, message, now)
            case Beat() | Bye():
                session = self._session_of(peer, device, envelope)
                if session is None:
                    self._refuse(peer, envelope.session, "stale_session", "hello first")
                elif isinstance(message, Beat):
                    self._hear(device, session, message, now)
                else:
                    self._let_go(device, message, now)
            case _:
                expected = BadMessage("Hello, Beat, Bye or Enrol", type(message).__name__)
                self._refuse(peer, envelope.session, "bad_message", str(expected))

    def _compare_epochs(self, device: _Device, envelope: Envelope, now: float) -> bool:
        """Is ours higher than any epoch that the device saw of others? If not, a Hello makes it so.

        A store that was restored from a backup knows too low an epoch. Devices follow nobody below the
        highest one that they saw, and take the revisions of an equal one for old.
        """
        message = envelope.message
        seen = message.seen_epoch if isinstance(message, Hello) else envelope.epoch
        if seen < self.epoch or (seen == self.epoch and device.told_epoch == seen):
            device.told_epoch = self.epoch
            return True
        if isinstance(message, Hello) and now >= self._raise_after:
            self._raise_after = now + self._config.lease
            event = (
                f"in epoch {self.epoch}, and {device.name} saw {seen} before: is the store a restored backup?"
            )
            self._first.append(Audit("fleet", event, alarm=True))
            if seen - self.epoch <= MAX_EPOCH_STEP:
                device.told_epoch = seen + 1
                self._first.append(RaiseEpoch(seen + 1))
        return False

    def _refuse(self, peer: DevicePeer, session: bytes, code: RefusalCode, detail: str) -> None:
        self._first.append(Send(peer.routing_id, Refused(code, detail), session))

    def _enrol(self, peer: DevicePeer, message: Enrol) -> None:
        token = self._ledger.tokens.get(peer.key)
        if token is None:
            self._refuse(peer, NO_SESSION, "token_used", "ask for a new token")
            return
        if message.public_key in self._ledger.owners or message.public_key in self._ledger.tokens:
            self._refuse(peer, NO_SESSION, "bad_message", "this key is in use: make one of your own")
            return
        known = self._ledger.devices.get(token.device)
        if known is None:
            self._devices[token.device] = _Device(token.device, self._rev)
            short_id = max((record.short_id for record in self._ledger.devices.values()), default=0) + 1
            self._ledger.write(DeviceRecord(token.device, message.public_key, short_id))
        else:
            self._replace_machine(self._devices[token.device])
            self._ledger.write(replace(known, public_key=message.public_key, left=False))
        self._stir_device(token.device)
        self._ledger.remove(token)
        self._then += [
            self._allow("devices"),
            self._allow("relay-in"),
            Send(peer.routing_id, Enrolled(token.device), NO_SESSION),
            Audit(token.device, "enrolled"),
        ]

    def _replace_machine(self, device: _Device) -> None:
        """A name goes to another key: what the old machine may still emit is fenced by higher gens."""
        if device.session is not None:
            self._end_session(device)
            device.state = "suspect"
        elif device.state == "quarantined":
            device.state = "suspect"
        for record in self._ledger.of_device(device.name):
            self._change(replace(record, gen=record.gen + 1, start_gen=record.gen + 1))

    def _greet(self, peer: DevicePeer, device: _Device, hello: Hello, now: float) -> None:
        name = device.name
        if hello.device != name:
            self._first.append(Audit(name, f"its key was used in the name of {hello.device}", alarm=True))
            self._refuse(peer, NO_SESSION, "key_device_mismatch", f"this is the key of {name}")
            return
        if device.state != "quarantined" and self._is_cloned(device, hello.boot, now):
            self._end_session(device)
            device.state, device.heard = "quarantined", now
            self._stir_device(name)
            self._first.append(Audit(name, "quarantined: two machines use its key, enrol anew", alarm=True))
        if device.state == "quarantined":
            self._refuse(peer, NO_SESSION, "quarantined", "two machines use this key: enrol anew")
            return
        self._open_session(peer, device, hello, now)

    def _is_cloned(self, device: _Device, boot: bytes, now: float) -> bool:
        """Do two boots take the session from each other? A restarted agent has a boot that never was."""
        since = now - self._config.clone_window
        device.replaced = {old: at for old, at in list(device.replaced.items())[-16:] if at > since}
        device.returns = [at for at in device.returns if at > since]
        if device.session is None or device.session.boot == boot:
            return False
        device.replaced.pop(device.session.boot, None)
        device.replaced[device.session.boot] = now
        if boot in device.replaced:
            device.returns.append(now)
        return len(device.returns) >= RETURNS

    def _open_session(self, peer: DevicePeer, device: _Device, hello: Hello, now: float) -> None:
        if device.session is not None:
            self._end_session(device)
        session = _Session(self._supply.session(), peer.routing_id, hello.boot, self._supply.ticket())
        device.session, device.state, device.heard = session, "syncing", now
        device.capacity, device.agent, device.publish = hello.capacity, hello.agent, hello.publish
        device.observed = {entry.pipeline_id: entry for entry in hello.observed}
        self._sessions[session.id] = device
        self._tickets[session.ticket] = device.name
        record = self._ledger.devices[device.name]
        if record.left:
            self._ledger.write(replace(record, left=False))
        # Wishes go out before any beat is acknowledged: no device goes on emitting what is no longer its own.
        self._tell(session, self._welcome(device, session))
        self._tell_wishes(device, session)
        self._stir_device(device.name)
        self._first.append(Audit(device.name, f"joined, agent {hello.agent}"))

    def _welcome(self, device: _Device, session: _Session) -> Welcome:
        config = self._config
        return Welcome(
            session.id,
            lease_ms=round(config.lease * 1000),
            self_stop_ms=round(config.self_stop * 1000),
            beat_ms=round(config.beat * 1000),
            short_id=self._ledger.devices[device.name].short_id,
            api=config.api,
            ticket=session.ticket,
            relay=config.relay,
            pictures=config.pictures,
        )

    def _tell(self, session: _Session, message: BrokerMessage) -> None:
        self._first.append(Send(session.routing_id, message, session.id))

    def _tell_wishes(self, device: _Device, session: _Session) -> None:
        session.resend = False
        self._tell(session, self._desired(device))
        self._tell(session, Subscribers(self._subscribers_rev, self._subscriber_keys()))

    def _desired(self, device: _Device) -> Desired:
        """What a device is told: not of what another one still has to give up."""
        records = self._ledger.of_device(device.name)
        return Desired(device.rev, tuple(record.wish() for record in records if record.leaving is None))

    def _end_session(self, device: _Device) -> None:
        session = device.session
        assert session is not None
        del self._sessions[session.id], self._tickets[session.ticket]
        device.session = None

    def _session_of(self, peer: DevicePeer, device: _Device, envelope: Envelope) -> _Session | None:
        """The session that a message belongs to, when everything that fences it is right."""
        session = device.session
        if session is None or (session.id, session.routing_id) != (envelope.session, peer.routing_id):
            return None
        if envelope.epoch != self.epoch or envelope.seq != session.received + 1:
            return None
        session.received = envelope.seq
        return session

    def _hear(self, device: _Device, session: _Session, beat: Beat, now: float) -> None:
        device.heard = now
        session.applied_rev = beat.applied_rev
        if beat.observed is not None:
            device.observed = {entry.pipeline_id: entry for entry in beat.observed}
            self._stir_device(device.name)
        want_full = observed_digest(tuple(device.observed.values())) != beat.observed_digest
        if session.resend or beat.applied_rev != device.rev:
            self._tell_wishes(device, session)
        self._tell(session, Ack(beat.n, device.rev, want_full))
        if device.state != "ready":
            self._first.append(Audit(device.name, "ready"))
            device.state = "ready"
            self._stir_device(device.name)
            self._place(now)
        self._confirm(device, session, now)

    def _let_go(self, device: _Device, bye: Bye, now: float) -> None:
        self._end_session(device)
        device.state = "left"
        self._stir_device(device.name)
        self._ledger.write(replace(self._ledger.devices[device.name], left=True))
        self._first.append(Audit(device.name, f"left: {bye.reason}"))
        self._release_gone(now)
        self._place(now)

    def _confirm(self, device: _Device, session: _Session, now: float) -> None:
        """Draw the conclusions from what a device says that it runs."""
        for record in self._ledger.of_device(device.name):
            if record.leaving is None and record.want != "stop":
                self._settle(record, now)
            elif record.leaving is None and self._has_released(device, session, record):
                self._remove(record, now, done=True)
        given_up = [
            record
            for record in self._ledger.taken_from(device.name)
            if self._has_released(device, session, record)
        ]
        for record in given_up:
            self._give_free(record, now, done=True)
        if given_up:
            self._place(now)

    def _has_released(self, device: _Device, session: _Session, record: PipelineRecord) -> bool:
        """Has the holder of a pipeline heard that it must not run it, and does not?"""
        told = self._released.get(record.pipeline_id, device.rev)
        return record.pipeline_id not in device.observed and session.applied_rev >= told

    def _give_free(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """The device that a pipeline was taken from does not hold it any longer."""
        if record.want == "stop":
            self._remove(record, now, done=done)
            return
        self._released.pop(record.pipeline_id, None)
        self._change(replace(record, leaving=None))

    # time -------------------------------------------------------------------------------------------------

    def _expire_tokens(self, now: float) -> None:
        expired = [token for token in self._ledger.tokens.values() if token.expires_at <= self._wall(now)]
        for token in expired:
            self._ledger.remove(token)
        if expired:
            self._then.append(self._allow("devices"))

    def _watch(self, now: float) -> None:
        for name, device in self._devices.items():
            if device.state not in ("syncing", "ready", "suspect"):
                continue
            assert device.heard is not None
            silent = now - device.heard
            if silent > self._config.lease and now >= self._grace_until:
                if device.session is not None:
                    self._end_session(device)
                device.state, device.lost_at = "lost", now
                self._first.append(Audit(name, f"lost: silent for {silent:.1f} s", alarm=True))
            elif silent > self._config.suspect and device.state != "suspect":
                device.state = "suspect"
                self._first.append(Audit(name, f"suspect: silent for {silent:.1f} s"))
            elif silent > self._config.probe and device.state != "suspect":
                # If its agent was killed, libzmq tells it to who sends something.
                assert device.session is not None
                self._tell(device.session, self._desired(device))

    def _weigh_losses(self, now: float) -> None:
        """When most of the fleet falls silent together, it is probably our network: move nothing then."""
        since = now - (self._config.mass_hold if self._mass else self._config.mass_window)
        devices = self._devices.values()
        silent = sum(d.state == "suspect" or (d.state == "lost" and d.lost_at > since) for d in devices)
        present = sum(device.state in ("syncing", "ready") for device in devices)
        mass = silent >= MASS and silent > present
        if mass and not self._mass:
            event = f"{silent} of {silent + present} devices are silent: nothing is moved until most are back"
            self._first.append(Audit("fleet", event, alarm=True))
        elif self._mass and not mass:
            self._first.append(Audit("fleet", "pipelines of lost devices are moved again"))
        self._mass = mass

    def _release_gone(self, now: float) -> None:
        """A device that is gone confirms nothing. Should it return, it is told what it may run."""
        for device in self._devices.values():
            if not self._is_gone(device, now):
                continue
            for record in self._ledger.of_device(device.name):
                if record.want == "stop" and record.leaving is None:
                    self._remove(record, now, done=_is_silent(device, record))
            for record in self._ledger.taken_from(device.name):
                self._give_free(record, now, done=_is_silent(device, record))

    def _is_gone(self, device: _Device, now: float) -> bool:
        """Is everything that this device may lose at an end there? Its lease is over, or it never had one."""
        if device.state == "quarantined":
            assert device.heard is not None
            return now - device.heard > self._config.lease
        return device.state in ("new", "lost", "left")

    def _place(self, now: float) -> None:
        """Give pipelines without a device one, and movable ones of a device that is gone another."""
        waiting = [record for record in self._ledger.of_device(None) if record.want != "stop"]
        for device in self._devices.values():
            if self._ledger.placed[device.name] and self._may_move_from(device, now):
                waiting += self._movable(device)
        if not waiting:
            return
        candidates = self._candidates()
        for record in sorted(waiting, key=lambda record: record.created):
            target = self._target(record, candidates)
            if target is None:
                continue
            self._change(self._moved(record, target, now))
            candidate = candidates[target]
            candidates[target] = replace(candidate, assigned=candidate.assigned + 1)
            self._then.append(Audit(record.pipeline_id, f"from {record.device or 'nowhere'} to {target}"))

    def _moved(self, record: PipelineRecord, target: str | None, now: float) -> PipelineRecord:
        """A pipeline, to begin anew on another device, or on none yet."""
        holder = record.holder
        free = holder is None or holder == target or self._is_gone(self._devices[holder], now)
        gen = record.gen + 1
        return replace(record, gen=gen, start_gen=gen, device=target, leaving=None if free else holder)

    def _may_move_from(self, device: _Device, now: float) -> bool:
        return self._is_gone(device, now) and not (device.state == "lost" and self._mass)

    def _movable(self, device: _Device) -> list[PipelineRecord]:
        return [
            record
            for record in self._ledger.of_device(device.name)
            if record.want != "stop" and not record.pinned and not self._has_ended(record)
        ]

    def _candidates(self) -> dict[str, Candidate]:
        return {
            name: self._candidate(device) for name, device in self._devices.items() if device.state == "ready"
        }

    def _candidate(self, device: _Device) -> Candidate:
        """What has finished takes no capacity, but its wish is still one of those that are told."""
        records = self._ledger.of_device(device.name)
        finished = sum(map(self._has_finished, records))
        capacity = min(device.capacity, MAX_PIPELINES - finished)
        return Candidate(device.name, capacity, len(records) - finished)

    def _target(self, record: PipelineRecord, candidates: dict[str, Candidate]) -> str | None:
        """The device with most room, also in the message that tells it its wishes."""
        left = {name: of for name, of in candidates.items() if self._meets(name, record.selector)}
        while (name := choose(left.values())) is not None and not self._fits(record, name):
            del left[name]
        return name

    def _fits(self, record: PipelineRecord, name: str) -> bool:
        """Is there room for a pipeline in the message that tells a device its wishes?"""
        others = [other for other in self._ledger.of_device(name) if other.pipeline_id != record.pipeline_id]
        wishes = (*(other.wish() for other in others), record.wish())
        return _size(Desired(self._rev, wishes)) <= MAX_WISHES

    def _meets(self, name: str, selector: Labels) -> bool:
        return meets(self._ledger.devices[name].labels, selector)

    def _give_up_waiting(self, now: float) -> None:
        for pipeline_id, waiters in list(self._waiters.items()):
            for waiter in list(waiters):
                if now >= waiter.deadline:
                    self._release(waiter, self._view(self._ledger.pipelines[pipeline_id], now), done=False)
        for asker, listener in list(self._listeners.items()):
            if now >= listener.deadline:
                self._tell_events(asker, self._events_after(listener.request))

    # the operators' plane ---------------------------------------------------------------------------------

    def _receive_from_operator(self, peer: OperatorPeer, envelope: Envelope, now: float) -> None:
        message = envelope.message
        outcome: Reply | Error | None
        if not isinstance(message, Request):
            outcome = Error("bad_message", str(BadMessage("a Request", type(message).__name__)))
        else:
            try:
                asker = _Asker(peer.routing_id, envelope.request_id)
                outcome = self._do(unpack_request(message), asker, now)
            except BadMessage as exc:
                outcome = Error("bad_message", str(exc))
            except msgspec.ValidationError as exc:
                outcome = Error("invalid", f"{message.op}: {exc}")
        if outcome is not None:
            self._then.append(Answer(peer.routing_id, envelope.request_id, outcome))

    def _do(self, request: OperatorRequest, asker: _Asker, now: float) -> Reply | Error | None:
        """The answer to a request, or None when it comes later."""
        match request:
            case CreatePipeline() | PutPipeline() | RestartPipeline() | ChangePipeline():
                return self._change_wishes(request, asker, now)
            case AddDevice():
                return self._add_device(request, now)
            case LabelDevice():
                return self._label_device(request, now)
            case RemoveDevice():
                return self._remove_device(request)
            case AddSubscriber():
                return self._add_subscriber(request)
            case PutModel():
                return self._put_model(request)
            case RemoveModel():
                return self._remove_model(request)
            case GetEvents():
                return self._listen(request, asker, now)
            case _:
                return self._look_up(request, now)

    def _change_wishes(self, request: PipelineChange, asker: _Asker, now: float) -> Reply | Error | None:
        match request:
            case CreatePipeline():
                return self._create_pipeline(request, now)
            case PutPipeline():
                return self._put_pipeline(request, asker, now)
            case RestartPipeline():
                return self._restart_pipeline(request, asker, now)
            case ChangePipeline():
                return self._change_pipeline(request, asker, now)
            case _:
                assert_never(request)

    def _put_model(self, request: PutModel) -> Reply:
        if self._ledger.models.get(request.model.id) != request.model:
            self._ledger.write(request.model)
        return Reply(request.model)

    def _remove_model(self, request: RemoveModel) -> Reply | Error:
        model = self._ledger.models.get(request.model_id)
        if model is None:
            return Error("not_found", f"no model {request.model_id}")
        self._ledger.remove(model)
        return Reply(model)

    def _look_up(self, request: Query, now: float) -> Reply | Error:
        match request:
            case ListPipelines():
                records = sorted(self._ledger.pipelines.values(), key=lambda record: record.created)
                return Reply(self._views([record for record in records if record.want != "stop"], now))
            case GetPipeline():
                record = self._wished(request.pipeline_id)
                return _no_pipeline(request.pipeline_id) if record is None else Reply(self._view(record, now))
            case ListDevices():
                return Reply(self._device_views(now))
            case GetDevice():
                found = [view for view in self._device_views(now) if view.device == request.device]
                return Reply(found[0]) if found else self._no_device(request.device, "not_found")
            case ListModels():
                return Reply(tuple(sorted(self._ledger.models.values(), key=lambda model: model.id)))
            case CheckTicket():
                return Reply(self._tickets.get(request.ticket))
            case GetFleet():
                return Reply(self._fleet_view(now))
            case _:
                assert_never(request)

    def _create_pipeline(self, request: CreatePipeline, now: float) -> Reply | Error:
        if (earlier := self._made_before(request, now)) is not None:
            return earlier
        known = self._ledger.pipelines.get(request.pipeline_id)
        if known is None:
            record = self._begin(_new(request), now)
        elif known.want != "stop" and _is_same(known, replace(_new(request), want=known.want)):
            record = known
        else:
            state = "being stopped" if known.want == "stop" else "there already, and another one"
            return Error("conflict", f"pipeline {request.pipeline_id} is {state}")
        if isinstance(record, Error):
            return record
        if request.key:
            self._keep_key(KeyRecord(request.key, request.digest, request.pipeline_id, self._wall(now)))
        return Reply(self._view(record, now))

    def _made_before(self, request: CreatePipeline, now: float) -> Reply | Error | None:
        """What came of the first request under the same key."""
        row = self._ledger.keys.get(request.key)
        if row is None or self._wall(now) - row.created_at > KEY_LIFE:
            return None
        if row.digest != request.digest:
            return Error("mismatch", "something else was asked for under this key before")
        record = self._wished(row.pipeline_id)
        if record is None:
            text = f"pipeline {row.pipeline_id} was made under this key and has been deleted"
            return Error("conflict", text)
        return Reply(self._view(record, now))

    def _keep_key(self, row: KeyRecord) -> None:
        """Keys that are too old, or too many, go."""
        oldest = sorted(self._ledger.keys.values(), key=lambda known: known.created_at)
        surplus = len(oldest) + 1 - MAX_KEYS
        for position, known in enumerate(oldest):
            if position < surplus or row.created_at - known.created_at > KEY_LIFE:
                self._ledger.remove(known)
        self._ledger.write(row)

    def _begin(self, wished: PipelineRecord, now: float) -> PipelineRecord | Error:
        """A pipeline that is not there yet comes to be, with all that is wished of it."""
        if (refusal := self._refuse_wish(wished)) is not None:
            return refusal
        gen = self._ledger.floor + 1
        created = max((record.created for record in self._ledger.pipelines.values()), default=0) + 1
        record = replace(
            wished, gen=gen, start_gen=gen, created=created, version=1, created_at=self._wall(now)
        )
        if record.requested is None:
            record = replace(record, device=self._target(record, self._candidates()))
        self._change(record)
        self._then.append(Audit(record.pipeline_id, f"created on {record.device or 'no device yet'}"))
        return record

    def _refuse_wish(self, record: PipelineRecord) -> Error | None:
        name = record.requested
        if _size(Desired(self._rev, (record.wish(),))) > MAX_WISHES:
            return Error("invalid", f"pipeline {record.pipeline_id} is larger than {MAX_WISHES} bytes")
        if name is None:
            return None
        if name not in self._devices:
            return self._no_device(name)
        if not self._meets(name, record.selector):
            return Error("invalid", f"device {name} does not have the labels {spelled(record.selector)}")
        if len(self._ledger.placed[name] - {record.pipeline_id}) >= MAX_PIPELINES:
            return Error("too_many", f"device {name} has {MAX_PIPELINES} pipelines already")
        if not self._fits(record, name):
            return Error("too_many", f"the pipelines of device {name} would not fit into one message")
        return None

    def _put_pipeline(self, request: PutPipeline, asker: _Asker, now: float) -> Reply | Error | None:
        known = self._ledger.pipelines.get(request.pipeline_id)
        if known is not None and _is_asked_again(known, asker):
            return self._wait(known, _put(created=known.version == 1), asker, request.wait_ms, now)
        if known is not None and known.want == "stop":
            return Error("conflict", f"pipeline {request.pipeline_id} is being stopped")
        if request.expected is not None and (known is None or known.version != request.expected):
            state = "is not there" if known is None else f"has version {known.version}"
            text = f"pipeline {request.pipeline_id} {state}, expected version {request.expected}"
            return Error("conflict", text)
        wished = replace(_new(request), changed_by=asker.request_id)
        if known is not None and _is_same(known, wished):
            return self._wait(known, _put(changed=False), asker, request.wait_ms, now)
        record = self._begin(wished, now) if known is None else self._rewish(known, wished, now)
        if isinstance(record, Error):
            return record
        return self._wait(record, _put(created=known is None), asker, request.wait_ms, now)

    def _rewish(self, known: PipelineRecord, wished: PipelineRecord, now: float) -> PipelineRecord | Error:
        """A pipeline becomes what is wished of it, with no more disturbance than that needs."""
        record = replace(
            known,
            spec=wished.spec,
            requested=wished.requested,
            selector=wished.selector,
            labels=wished.labels,
            want=wished.want,
            version=known.version + 1,
            changed_by=wished.changed_by,
        )
        if (refusal := self._refuse_wish(record)) is not None:
            return refusal
        device = self._device_for(record)
        if device != known.device:
            record = self._moved(record, device, now)
        elif not record.spec.plays_like(known.spec) or record.pinned != known.pinned:
            record = replace(record, gen=known.gen + 1, start_gen=known.gen + 1)
        elif (record.spec, record.want) != (known.spec, known.want):
            record = replace(record, gen=known.gen + 1)
        if record.gen == known.gen:
            self._ledger.write(record)
        else:
            self._change(record)
            self._supersede(record, now)
        self._then.append(Audit(record.pipeline_id, f"version {record.version}: {_summary(known, record)}"))
        return record

    def _device_for(self, record: PipelineRecord) -> str | None:
        """Where a changed pipeline runs: where it did, if that still suits it."""
        name = record.device
        if record.requested is not None:
            return record.requested
        if name is not None and self._meets(name, record.selector) and self._fits(record, name):
            return name
        return self._target(record, self._candidates())

    def _restart_pipeline(self, request: RestartPipeline, asker: _Asker, now: float) -> Reply | Error:
        record = self._wished(request.pipeline_id)
        if record is None:
            return _no_pipeline(request.pipeline_id)
        if not _is_asked_again(record, asker):
            gen, version = record.gen + 1, record.version + 1
            record = replace(
                record, want="run", gen=gen, start_gen=gen, version=version, changed_by=asker.request_id
            )
            self._change(record)
            self._supersede(record, now)
            self._then.append(Audit(record.pipeline_id, "begins anew"))
        return Reply(self._view(record, now))

    def _change_pipeline(self, request: ChangePipeline, asker: _Asker, now: float) -> Reply | Error | None:
        known = self._ledger.pipelines.get(request.pipeline_id)
        if known is not None and _is_asked_again(known, asker):
            return self._wait(known, Changed, asker, request.wait_ms, now)
        record = self._wished(request.pipeline_id)
        if record is None:
            return _no_pipeline(request.pipeline_id)
        if request.want != "stop" and (request.want == record.want or self._has_finished(record)):
            return Error("conflict", f"pipeline {record.pipeline_id} is {self._view(record, now).status}")
        record = replace(
            record,
            want=request.want,
            gen=record.gen + 1,
            version=record.version + 1,
            changed_by=asker.request_id,
        )
        self._then.append(Audit(record.pipeline_id, f"wanted: {request.want}"))
        holder = None if record.holder is None else self._devices[record.holder]
        if request.want == "stop" and (holder is None or self._is_gone(holder, now)):
            done = holder is None or _is_silent(holder, record)
            self._remove(record, now, done=done)
            return Reply(Changed(self._view(record, now), done))
        self._change(record)
        self._supersede(record, now)
        return self._wait(record, Changed, asker, request.wait_ms, now)

    def _supersede(self, record: PipelineRecord, now: float) -> None:
        """Who waits for an earlier wish will never see it done."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            self._release(waiter, self._view(record, now), done=False)

    def _wait(
        self,
        record: PipelineRecord,
        reply: Callable[[PipelineView, bool], Changed | Put],
        asker: _Asker,
        wait_ms: int,
        now: float,
    ) -> Reply | None:
        """Answer when the device has done it, or after `wait_ms`."""
        done = confirmed(record, self._observed(record))
        if done is not None or wait_ms == 0:
            return Reply(reply(self._view(record, now), done or False))
        waiter = _Waiter(asker, record, reply, now + wait_ms / 1000)
        self._waiters.setdefault(record.pipeline_id, []).append(waiter)
        return None

    def _settle(self, record: PipelineRecord, now: float) -> None:
        """Answer whoever waits for this pipeline, if there is something to say."""
        for waiter in list(self._waiters.get(record.pipeline_id, ())):
            done = confirmed(record, self._observed(record))
            if done is not None:
                self._release(waiter, self._view(record, now), done=done)

    def _release(self, waiter: _Waiter, pipeline: PipelineView, *, done: bool) -> None:
        self._dismiss(waiter)
        self._answer(waiter.asker, waiter.reply(pipeline, done))

    def _answer(self, asker: _Asker, data: object) -> None:
        self._then.append(Answer(asker.routing_id, asker.request_id, Reply(data)))

    def _dismiss(self, waiter: _Waiter) -> None:
        waiters = self._waiters[waiter.record.pipeline_id]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[waiter.record.pipeline_id]

    def _add_device(self, request: AddDevice, now: float) -> Reply:
        """One token is good at a time: a new one ends those that were made for the name before."""
        for token in [token for token in self._ledger.tokens.values() if token.device == request.device]:
            self._ledger.remove(token)
        pair = self._supply.key_pair()
        record = TokenRecord(pair.public, request.device, self._wall(now) + request.ttl)
        self._ledger.write(record)
        self._then += [self._allow("devices"), Audit(request.device, "may enrol once")]
        config = self._config
        token_line = JoinToken(request.device, config.endpoints, config.broker_key, pair.secret).encode()
        return Reply(Token(request.device, token_line))

    def _label_device(self, request: LabelDevice, now: float) -> Reply | Error:
        name = request.device
        known = self._ledger.devices.get(name)
        if known is None:
            return self._no_device(name, "not_found")
        if known.labels != request.labels:
            self._ledger.write(replace(known, labels=request.labels))
            self._then.append(Audit(name, f"labels: {spelled(request.labels) or 'none'}"))
            for record in self._movable(self._devices[name]):
                if not self._meets(name, record.selector):
                    self._change(self._moved(record, None, now))
                    self._then.append(Audit(record.pipeline_id, f"taken from {name}, which lost its labels"))
            self._place(now)
        (view,) = (view for view in self._device_views(now) if view.device == name)
        return Reply(view)

    def _remove_device(self, request: RemoveDevice) -> Reply | Error:
        name = request.device
        device, record = self._devices.get(name), self._ledger.devices.get(name)
        tokens = [token for token in self._ledger.tokens.values() if token.device == name]
        if device is None and not tokens:
            return self._no_device(name, "not_found")
        if device is not None and (why := self._why_needed(device)):
            return Error("conflict", why)
        for token in tokens:
            self._ledger.remove(token)
        if record is not None:
            self._ledger.remove(record)
            del self._devices[name]
            self._stir_device(name)
        self._then += [self._allow("devices"), self._allow("relay-in"), Audit(name, "removed")]
        return Reply(None)

    def _why_needed(self, device: _Device) -> str:
        """Why a device cannot be forgotten, and what to do about it."""
        name = device.name
        if device.state in ("syncing", "ready", "suspect"):
            return (
                f"device {name} is {device.state}: stop its worker, and try again when it has left or is lost"
            )
        held = [*self._ledger.of_device(name), *self._ledger.taken_from(name)]
        if not held:
            return ""
        first = ", ".join(record.pipeline_id for record in held[:3])
        text = first if len(held) <= 3 else f"{first} and {len(held) - 3} more"
        return f"device {name} has pipelines: end {text}, or put them on another device"

    def _add_subscriber(self, request: AddSubscriber) -> Reply | Error:
        """A name that exists gets a new key. Who is connected with the old one stays until it reconnects."""
        subscribers = self._ledger.subscribers
        source = self._source_of(request.device)
        if isinstance(source, Error):
            return source
        if request.name not in subscribers and len(subscribers) >= MAX_SUBSCRIBERS:
            return Error("too_many", f"there are {MAX_SUBSCRIBERS} subscribers already")
        pair = self._supply.key_pair()
        self._ledger.write(SubscriberRecord(request.name, pair.public))
        self._subscribers_rev += 1
        message = Subscribers(self._subscribers_rev, self._subscriber_keys())
        self._then += [self._allow("relay-out"), Audit(request.name, "may subscribe")]
        self._then += [
            Send(device.session.routing_id, message, device.session.id)
            for _, device in sorted(self._devices.items())
            if device.session is not None
        ]
        endpoint, server_key = source
        return Reply(Subscription(request.name, endpoint, server_key, pair.public, pair.secret))

    def _source_of(self, name: str | None) -> tuple[str, str] | Error:
        """Where to subscribe, and the public key there: the relay, or a device itself."""
        if name is None:
            return self._config.subscribe_endpoint, self._config.broker_key
        device = self._devices.get(name)
        if device is None:
            return self._no_device(name)
        if not device.publish:
            text = f"device {name} has no PUB socket of its own; start its worker with --publish-port"
            return Error("invalid", text)
        return device.publish, self._ledger.devices[name].public_key

    def _no_device(self, name: str, code: ErrorCode = "invalid") -> Error:
        known = ", ".join(sorted(self._devices)) or "none"
        return Error(code, f"no device {name}, the known ones are: {known}")

    # events -----------------------------------------------------------------------------------------------

    def _listen(self, request: GetEvents, asker: _Asker, now: float) -> Reply | Error | None:
        """Answer when something has happened, or after `wait_ms`."""
        events = self._events_after(request)
        if events.events or request.wait_ms == 0:
            return Reply(events)
        if len(self._listeners) >= MAX_LISTENERS and asker not in self._listeners:
            return Error("too_many", f"{MAX_LISTENERS} others wait for events already")
        self._listeners[asker] = _Listener(request, now + request.wait_ms / 1000)
        return None

    def _events_after(self, request: GetEvents) -> Events:
        if request.epoch == self.epoch:
            return self._events.after(request.after, self.epoch)
        events = self._events.after(None, self.epoch)
        return replace(events, lost=request.epoch != 0)

    def _tell_events(self, asker: _Asker, events: Events) -> None:
        del self._listeners[asker]
        self._answer(asker, events)

    def _stir_device(self, name: str) -> None:
        """How a device stands may have changed, and how its pipelines do."""
        self._stirred_devices.add(name)
        self._stirred |= self._ledger.placed[name] | self._ledger.leaving[name]

    def _look_at_all(self) -> None:
        self._stirred_devices = self._devices.keys() | self._events.known("device")
        self._stirred = self._ledger.pipelines.keys() | self._events.known("pipeline")

    def _notice(self, now: float) -> None:
        """Make events of what stands otherwise now, and tell them to who waits for some."""
        self._events.begin_step()
        at = self._wall(now)
        happened = False
        for name in sorted(self._stirred_devices):
            standing = self._device_standing(name) if name in self._devices else None
            if self._events.is_new("device", name, standing):
                reason = "" if standing is None else self._device_reason(name, now)
                self._events.add("device", name, standing, reason, at)
                happened = True
        for pipeline_id in sorted(self._stirred):
            record = self._ledger.pipelines.get(pipeline_id)
            seen = None if record is None else self._standing(record)
            if self._events.is_new("pipeline", pipeline_id, seen):
                reason = "" if record is None else self._view(record, now).reason
                self._events.add("pipeline", pipeline_id, seen, reason, at)
                happened = True
        self._stirred, self._stirred_devices = set(), set()
        if happened:
            for asker, listener in list(self._listeners.items()):
                events = self._events_after(listener.request)
                if events.events:
                    self._tell_events(asker, events)

    def _device_reason(self, name: str, now: float) -> str:
        device = self._devices[name]
        if device.state in ("syncing", "ready"):
            return ""
        return f"it {whereabouts(Home(name, device.state, device.silent(now)))}"

    def _device_standing(self, name: str) -> Standing:
        return self._devices[name].state, None, 0

    def _standing(self, record: PipelineRecord) -> Standing:
        holder, observed = record.holder, self._observed(record)
        state = None if holder is None else self._devices[holder].state
        restarts = 0 if observed is None else observed.restarts
        return status(record, state, observed), record.device, restarts

    # what is known ----------------------------------------------------------------------------------------

    def _wished(self, pipeline_id: str) -> PipelineRecord | None:
        """A pipeline that nobody has stopped."""
        record = self._ledger.pipelines.get(pipeline_id)
        return None if record is None or record.want == "stop" else record

    def _observed(self, record: PipelineRecord) -> Observed | None:
        """What its device said last of this playing of a pipeline."""
        if record.device is None or record.leaving is not None:
            return None
        observed = self._devices[record.device].observed.get(record.pipeline_id)
        return observed if observed is not None and observed.gen >= record.start_gen else None

    def _has_finished(self, record: PipelineRecord) -> bool:
        observed = self._observed(record)
        return observed is not None and observed.state in (ObservedState.ENDED, ObservedState.FAILED)

    def _has_ended(self, record: PipelineRecord) -> bool:
        observed = self._observed(record)
        return observed is not None and observed.state == ObservedState.ENDED

    def _view(self, record: PipelineRecord, now: float) -> PipelineView:
        (found,) = self._views([record], now)
        return found

    def _views(self, records: Iterable[PipelineRecord], now: float) -> tuple[PipelineView, ...]:
        known = [(record, self._home(record, now), self._observed(record)) for record in records]
        candidates = self._candidates() if any(is_waiting(*entry) for entry in known) else {}
        return tuple(
            view(*entry, self._prospect(entry[0], candidates, now) if is_waiting(*entry) else "")
            for entry in known
        )

    def _home(self, record: PipelineRecord, now: float) -> Home | None:
        if record.holder is None:
            return None
        device = self._devices[record.holder]
        return Home(device.name, device.state, device.silent(now))

    def _prospect(self, record: PipelineRecord, candidates: dict[str, Candidate], now: float) -> str:
        """Where a waiting pipeline goes, or why nowhere."""
        device = None if record.device is None else self._devices[record.device]
        if device is not None and device.state == "lost" and self._mass:
            return "nothing is moved while most of the fleet is silent"
        if device is not None and not self._is_gone(device, now):
            return "it moves when the lease of that device has ended"
        target = self._target(record, candidates)
        if target is None:
            meeting = {name for name in self._devices if self._meets(name, record.selector)}
            return why_nowhere(
                (candidates[name] for name in candidates.keys() & meeting),
                other=device is not None,
                selector=record.selector,
                exists=bool(meeting - {record.device}),
            )
        return f"it is about to go to {target}"

    def _device_views(self, now: float) -> tuple[DeviceView, ...]:
        views = {token.device: DeviceView(token.device, "new") for token in self._ledger.tokens.values()}
        for name, device in self._devices.items():
            records = self._ledger.of_device(name)
            views[name] = DeviceView(
                name,
                device.state,
                device.capacity,
                sum(record.want != "stop" and not self._has_finished(record) for record in records),
                device.agent,
                device.silent(now),
                self._ledger.devices[name].labels,
            )
        return tuple(views[name] for name in sorted(views))

    def _wall(self, now: float) -> float:
        """Unix seconds at `now`."""
        return now + self._wall_ahead

    def _fleet_view(self, now: float) -> FleetView:
        return FleetView(
            self.epoch,
            now - self._started,
            sum(device.state == "ready" for device in self._devices.values()),
            len(self._devices),
            sum(record.want != "stop" for record in self._ledger.pipelines.values()),
        )


_STORE_DOWN = Error("store_down", "the broker's store does not take writes; nothing was changed")


def _no_pipeline(pipeline_id: str) -> Error:
    return Error("not_found", f"no pipeline {pipeline_id}")


def _new(request: CreatePipeline | PutPipeline) -> PipelineRecord:
    """What is wished for, of a pipeline about which nothing is known yet."""
    return PipelineRecord(
        request.pipeline_id,
        1,
        1,
        request.want,
        request.spec,
        request.device,
        request.device,
        1,
        selector=request.selector,
        labels=request.labels,
    )


def _is_same(record: PipelineRecord, wished: PipelineRecord) -> bool:
    """Is it wished for just so already?"""
    return all(
        getattr(record, name) == getattr(wished, name)
        for name in ("spec", "requested", "selector", "labels", "want")
    )


def _is_asked_again(record: PipelineRecord, asker: _Asker) -> bool:
    """Is this the request that made a pipeline what it is? Its answer got lost."""
    return bool(asker.request_id) and record.changed_by == asker.request_id


def _put(*, created: bool = False, changed: bool = True) -> Callable[[PipelineView, bool], Put]:
    return lambda pipeline, done: Put(pipeline, created, changed, done)


def _summary(known: PipelineRecord, record: PipelineRecord) -> str:
    """What a change means for who looks at the pipeline."""
    if record.start_gen != known.start_gen:
        return f"begins anew on {record.device or 'no device yet'}"
    return "changes as it runs" if record.gen != known.gen else "nothing that a device is told"


def _size(desired: Desired) -> int:
    """Bytes of the message."""
    try:
        return len(encode(Envelope(desired))[2])
    except BadMessage:
        return MAX_BODY + 1


def _is_silent(device: _Device, record: PipelineRecord) -> bool:
    """Does a pipeline of a device that is gone certainly emit nothing?

    A pinned one may go on where a device is only cut off; a movable one was stopped by its lease.
    """
    return not record.pinned or device.state in ("new", "left")
