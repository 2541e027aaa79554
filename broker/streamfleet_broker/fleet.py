"""The fleet: who is here, what is wished for, where it runs. Pure: messages and `now` in, effects out.

A device:    new ──Hello──▶ syncing ──Beat──▶ ready ◀──Beat──▶ suspect ──lease ends──▶ lost
             any ──Bye──▶ left; two boots that alternate ──▶ quarantined; lost, left ──Hello──▶ syncing
A pipeline:  one record, whose `gen` rises with every change of device, spec or want.

Everything with an effect on a device is the whole set of its wishes, sent until it says that it applied them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
from typing_extensions import assert_never

from streamfleet_broker.effects import Allow, Answer, Audit, Domain, Effect, RaiseEpoch, Save, Send
from streamfleet_broker.ledger import Ledger
from streamfleet_broker.placement import Candidate, choose
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
    FleetView,
    GetFleet,
    GetPipeline,
    ListDevices,
    ListModels,
    ListPipelines,
    OperatorRequest,
    PipelineView,
    PutModel,
    Subscription,
    Token,
    unpack_request,
)
from streamfleet_broker.protocol.tokens import JoinToken
from streamfleet_broker.protocol.values import Observed, ObservedState, observed_digest
from streamfleet_broker.records import (
    DeviceRecord,
    FloorRecord,
    PipelineRecord,
    Record,
    SubscriberRecord,
    TokenRecord,
)
from streamfleet_broker.views import Home, confirmed, is_waiting, view, why_nowhere

MAX_PIPELINES = 64  # a device, whatever its capacity
MAX_SUBSCRIBERS = 1000  # their keys travel in one message
# The wishes of a device travel in one message too. What is left of it is for a `want` or a `gen` that grows.
MAX_WISHES = MAX_BODY - MAX_PIPELINES * 24  # bytes
MASS = 3  # silent devices that, being most of the fleet, mean that it is our network
MAX_EPOCH_STEP = 1_000_000  # starts of a broker; no device may use up the numbers that there are
RETURNS = 3  # of a replaced boot within the clone window: two machines have one key

Query = ListPipelines | GetPipeline | ListDevices | ListModels | CheckTicket | GetFleet


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


@dataclass(slots=True)
class _Waiter:
    """An operator who waits until the device has done it."""

    routing_id: bytes
    request_id: bytes
    record: PipelineRecord  # as it was wished for
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
        self._stopped: dict[str, int] = {}  # pipeline → rev of its stop, until the device confirms
        self._waiters: dict[str, list[_Waiter]] = {}

        # Of the step under way; empty between steps.
        self._first: list[Effect] = []  # hold whether or not the store does
        self._changed: set[str] = set()  # devices whose wishes changed
        self._then: list[Effect] = []  # true only once the writes are durable

        for name, device in self._devices.items():
            # Whoever has pipelines is expected back; nothing depends on the others.
            if self._ledger.placed[name]:
                device.state, device.heard = "suspect", now
            else:
                device.state = "left" if self._ledger.devices[name].left else "lost"

    # entry points -----------------------------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """Before anything else."""
        self._then += [
            Allow("operators", frozenset({self._config.operator_key})),
            *(self._allow(domain) for domain in ("devices", "relay-in", "relay-out")),
        ]
        return self._finish()

    def receive(self, peer: DevicePeer | OperatorPeer, envelope: Envelope, now: float) -> list[Effect]:
        """A message came."""
        if isinstance(peer, OperatorPeer):
            self._receive_from_operator(peer, envelope, now)
        else:
            self._receive_from_device(peer, envelope, now)
        return self._finish()

    def garbled(self, peer: DevicePeer | OperatorPeer, request_id: bytes, error: BadMessage) -> list[Effect]:
        """Bytes came that are no message."""
        if isinstance(peer, OperatorPeer):
            self._then.append(Answer(peer.routing_id, request_id, Error("bad_message", str(error))))
        else:
            code: RefusalCode = "version" if error.expected.startswith("version") else "bad_message"
            self._refuse(peer, NO_SESSION, code, str(error))
        return self._finish()

    def tick(self, now: float) -> list[Effect]:
        """Time passed. Call it twice a second."""
        if now - self._ticked > self._config.suspect:
            # It was us who slept: beats may wait in the sockets, and nobody got an answer meanwhile.
            self._grace_until = max(self._grace_until, now + self._config.grace)
        self._ticked = now
        self._expire_tokens(now)
        self._watch(now)
        self._weigh_losses(now)
        self._forget_stopped(now)
        self._place(now)
        self._give_up_waiting(now)
        return self._finish()

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
        for name in self._devices.keys() - self._ledger.devices.keys():
            del self._devices[name]
        answers = [
            Answer(effect.routing_id, effect.request_id, _STORE_DOWN)
            for effect in dropped
            if isinstance(effect, Answer)
        ]
        for pipeline_id, waiters in list(self._waiters.items()):
            record = self._ledger.pipelines.get(pipeline_id)
            for waiter in list(waiters):
                if record is None or record.gen < waiter.record.gen:
                    self._dismiss(waiter)
                    answers.append(Answer(waiter.routing_id, waiter.request_id, _STORE_DOWN))
        return list(answers)

    def raised(self, epoch: int) -> None:
        """This epoch is durable. Sessions of the last one are refused at their next beat, and begin anew."""
        assert epoch > self.epoch
        self.epoch = epoch

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert [self._first, self._changed, self._then] == [[], set(), []]
        self._ledger.check()
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

    def _finish(self) -> list[Effect]:
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

    def _remove(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """The pipeline is no more. `done`: it certainly emits nothing any longer."""
        self._ledger.remove(record)
        if record.gen > self._ledger.floor:
            self._ledger.write(FloorRecord(record.gen))
        self._touch({record.device})
        self._stopped.pop(record.pipeline_id, None)
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
        else:
            self._replace_machine(self._devices[token.device])
            short_id = known.short_id
        self._ledger.write(DeviceRecord(token.device, message.public_key, short_id))
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
        wishes = (record.wish() for record in self._ledger.of_device(device.name))
        return Desired(device.rev, tuple(wishes))

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
        want_full = observed_digest(tuple(device.observed.values())) != beat.observed_digest
        if session.resend or beat.applied_rev != device.rev:
            self._tell_wishes(device, session)
        self._tell(session, Ack(beat.n, device.rev, want_full))
        if device.state != "ready":
            self._first.append(Audit(device.name, "ready"))
            device.state = "ready"
            self._place(now)
        self._confirm(device, session, now)

    def _let_go(self, device: _Device, bye: Bye, now: float) -> None:
        self._end_session(device)
        device.state = "left"
        self._ledger.write(replace(self._ledger.devices[device.name], left=True))
        self._first.append(Audit(device.name, f"left: {bye.reason}"))
        self._forget_stopped(now)
        self._place(now)

    def _confirm(self, device: _Device, session: _Session, now: float) -> None:
        """Draw the conclusions from what a device says that it runs."""
        for record in self._ledger.of_device(device.name):
            stopped = self._stopped.get(record.pipeline_id, device.rev)
            if record.want != "stop":
                self._settle(record, now)
            elif record.pipeline_id not in device.observed and session.applied_rev >= stopped:
                self._remove(record, now, done=True)

    # time -------------------------------------------------------------------------------------------------

    def _expire_tokens(self, now: float) -> None:
        expired = [
            token for token in self._ledger.tokens.values() if token.expires_at <= now + self._wall_ahead
        ]
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

    def _forget_stopped(self, now: float) -> None:
        """Nobody confirms a stop for a device that is gone. Should it return, it is told what it may run."""
        for device in self._devices.values():
            if not self._is_gone(device, now):
                continue
            for record in self._ledger.of_device(device.name):
                if record.want == "stop":
                    self._remove(record, now, done=_is_silent(device, record))

    def _is_gone(self, device: _Device, now: float) -> bool:
        """Is everything that this device may lose at an end there? Its lease is over, or it never had one."""
        if device.state == "quarantined":
            assert device.heard is not None
            return now - device.heard > self._config.lease
        return device.state in ("new", "lost", "left")

    def _place(self, now: float) -> None:
        """Give pipelines without a device one, and movable ones of a device that is gone another."""
        waiting = self._ledger.of_device(None)
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
            moved = replace(record, gen=record.gen + 1, start_gen=record.gen + 1, device=target)
            self._change(moved)
            candidate = candidates[target]
            candidates[target] = replace(candidate, assigned=candidate.assigned + 1)
            self._then.append(Audit(record.pipeline_id, f"from {record.device or 'nowhere'} to {target}"))

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
        left = dict(candidates)
        while (name := choose(left.values())) is not None and not self._fits(record, name):
            del left[name]
        return name

    def _fits(self, record: PipelineRecord, name: str) -> bool:
        desired = self._desired(self._devices[name])
        return _size(replace(desired, wishes=(*desired.wishes, record.wish()))) <= MAX_WISHES

    def _give_up_waiting(self, now: float) -> None:
        for pipeline_id, waiters in list(self._waiters.items()):
            for waiter in list(waiters):
                if now >= waiter.deadline:
                    self._release(waiter, self._view(self._ledger.pipelines[pipeline_id], now), done=False)

    # the operators' plane ---------------------------------------------------------------------------------

    def _receive_from_operator(self, peer: OperatorPeer, envelope: Envelope, now: float) -> None:
        message = envelope.message
        outcome: Reply | Error | None
        if not isinstance(message, Request):
            outcome = Error("bad_message", str(BadMessage("a Request", type(message).__name__)))
        else:
            try:
                outcome = self._do(unpack_request(message), peer, envelope.request_id, now)
            except BadMessage as exc:
                outcome = Error("bad_message", str(exc))
            except msgspec.ValidationError as exc:
                outcome = Error("invalid", f"{message.op}: {exc}")
        if outcome is not None:
            self._then.append(Answer(peer.routing_id, envelope.request_id, outcome))

    def _do(
        self, request: OperatorRequest, peer: OperatorPeer, request_id: bytes, now: float
    ) -> Reply | Error | None:
        """The answer to a request, or None when it comes later."""
        match request:
            case CreatePipeline():
                return self._create_pipeline(request, now)
            case ChangePipeline():
                return self._change_pipeline(request, peer, request_id, now)
            case AddDevice():
                return self._add_device(request, now)
            case AddSubscriber():
                return self._add_subscriber(request)
            case PutModel():
                if self._ledger.models.get(request.model.id) != request.model:
                    self._ledger.write(request.model)
                return Reply(request.model)
            case _:
                return self._look_up(request, now)

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
            case ListModels():
                return Reply(tuple(sorted(self._ledger.models.values(), key=lambda model: model.id)))
            case CheckTicket():
                return Reply(self._tickets.get(request.ticket))
            case GetFleet():
                return Reply(self._fleet_view(now))
            case _:
                assert_never(request)

    def _create_pipeline(self, request: CreatePipeline, now: float) -> Reply | Error:
        pipeline_id, requested = request.pipeline_id, request.device
        known = self._ledger.pipelines.get(pipeline_id)
        if known is not None:
            if known.want != "stop" and (known.spec, known.requested) == (request.spec, requested):
                return Reply(self._view(known, now))
            state = "being stopped" if known.want == "stop" else "there already, and another one"
            return Error("conflict", f"pipeline {pipeline_id} is {state}")
        gen = self._ledger.floor + 1
        created = max((record.created for record in self._ledger.pipelines.values()), default=0) + 1
        record = PipelineRecord(pipeline_id, gen, gen, "run", request.spec, requested, requested, created)
        if (refusal := self._refuse_creation(record)) is not None:
            return refusal
        if requested is None:
            record = replace(record, device=self._target(record, self._candidates()))
        self._change(record)
        self._then.append(Audit(pipeline_id, f"created on {record.device or 'no device yet'}"))
        return Reply(self._view(record, now))

    def _refuse_creation(self, record: PipelineRecord) -> Error | None:
        name = record.requested
        if _size(Desired(self._rev, (record.wish(),))) > MAX_WISHES:
            return Error("invalid", f"pipeline {record.pipeline_id} is larger than {MAX_WISHES} bytes")
        if name is None:
            return None
        if name not in self._devices:
            return self._no_device(name)
        if len(self._ledger.placed[name]) >= MAX_PIPELINES:
            return Error("too_many", f"device {name} has {MAX_PIPELINES} pipelines already")
        if not self._fits(record, name):
            return Error("too_many", f"the pipelines of device {name} would not fit into one message")
        return None

    def _change_pipeline(
        self, request: ChangePipeline, peer: OperatorPeer, request_id: bytes, now: float
    ) -> Reply | Error | None:
        known = self._ledger.pipelines.get(request.pipeline_id)
        if known is not None and request_id and known.changed_by == request_id:
            return self._wait(known, request, peer, request_id, now)
        record = self._wished(request.pipeline_id)
        if record is None:
            return _no_pipeline(request.pipeline_id)
        if request.want != "stop" and (request.want == record.want or self._has_finished(record)):
            return Error("conflict", f"pipeline {record.pipeline_id} is {self._view(record, now).status}")
        record = replace(record, want=request.want, gen=record.gen + 1, changed_by=request_id)
        self._then.append(Audit(record.pipeline_id, f"wanted: {request.want}"))
        device = None if record.device is None else self._devices[record.device]
        if request.want == "stop" and (device is None or self._is_gone(device, now)):
            self._remove(record, now, done=device is None or _is_silent(device, record))
            return Reply(Changed(self._view(record, now), device is None or _is_silent(device, record)))
        self._change(record)
        if request.want == "stop":
            self._stopped[record.pipeline_id] = self._rev
        for superseded in list(self._waiters.get(record.pipeline_id, ())):
            self._release(superseded, self._view(record, now), done=False)
        return self._wait(record, request, peer, request_id, now)

    def _wait(
        self,
        record: PipelineRecord,
        request: ChangePipeline,
        peer: OperatorPeer,
        request_id: bytes,
        now: float,
    ) -> Reply | None:
        """Answer when the device has done it, or after `wait_ms`."""
        done = record.want != "stop" and confirmed(record, self._observed(record))
        if done or request.wait_ms == 0:
            return Reply(Changed(self._view(record, now), done or False))
        waiter = _Waiter(peer.routing_id, request_id, record, now + request.wait_ms / 1000)
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
        self._then.append(Answer(waiter.routing_id, waiter.request_id, Reply(Changed(pipeline, done))))

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
        record = TokenRecord(pair.public, request.device, now + self._wall_ahead + request.ttl)
        self._ledger.write(record)
        self._then += [self._allow("devices"), Audit(request.device, "may enrol once")]
        config = self._config
        token_line = JoinToken(request.device, config.endpoints, config.broker_key, pair.secret).encode()
        return Reply(Token(request.device, token_line))

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

    def _no_device(self, name: str) -> Error:
        known = ", ".join(sorted(self._devices)) or "none"
        return Error("invalid", f"no device {name}, the known ones are: {known}")

    # what is known ----------------------------------------------------------------------------------------

    def _wished(self, pipeline_id: str) -> PipelineRecord | None:
        """A pipeline that nobody has stopped."""
        record = self._ledger.pipelines.get(pipeline_id)
        return None if record is None or record.want == "stop" else record

    def _observed(self, record: PipelineRecord) -> Observed | None:
        """What its device said last of this playing of a pipeline."""
        if record.device is None:
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
        if record.device is None:
            return None
        device = self._devices[record.device]
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
            return why_nowhere(candidates.values(), other=device is not None)
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
            )
        return tuple(views[name] for name in sorted(views))

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
