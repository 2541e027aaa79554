"""The worker's session: what it sends, adopts and refuses, and how long it may emit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope, encode
from streamfleet_core.protocol.limits import MAX_REASON
from streamfleet_core.protocol.messages import (
    Bye,
    Desired,
    Heartbeat,
    HeartbeatAck,
    Hello,
    RefusalCode,
    Refused,
    Subscribers,
    Welcome,
)
from streamfleet_core.protocol.rates import DEVICE_BYTES, DEVICE_MESSAGES
from streamfleet_core.protocol.values import Assignment, Observed, ObservedState, observed_digest
from streamfleet_worker.decisions.broker_session import START_TIMEOUT, Session, SessionState
from streamfleet_worker.decisions.session_effects import (
    Adopt,
    AllowSubscribers,
    Close,
    CloseFence,
    Effect,
    ExtendFence,
    LeaseEnded,
    LeaseRenewed,
    Open,
    RememberEpoch,
    Send,
    StartWithoutBroker,
    Welcomed,
)
from tests.fakes.peers import spec

BOOT = b"b" * 16
SESSION = b"s" * 16
HELLO = Hello(device="cam-7", boot=BOOT, agent="0.1.0", capacity=4, seen_epoch=4)
WELCOME = Welcome(
    session=SESSION,
    self_stop_ms=8_000,
    heartbeat_ms=1_000,
    short_id=7,
    api="http://*:8080",
    ticket="ticket",
    relay=("tcp://*:7773",),
)
ASSIGNMENT = Assignment(
    pipeline_id="door",
    generation=7,
    run_generation=3,
    desired_status="run",
    on_disconnect="stop",
    spec=spec("rtsp://h/door"),
)
RUNNING = (Observed(pipeline_id="door", generation=7, incarnation=2, state=ObservedState.RUNNING),)
EMPTY = observed_digest(())


@dataclass
class Broker:
    """The other end: numbers its messages as the real one does."""

    epoch: int = 5
    session: bytes = SESSION
    seq: int = 0

    def say(self, message: object) -> Envelope:
        if isinstance(message, Refused):
            return Envelope(message, epoch=self.epoch, session=self.session)
        self.seq += 1
        return Envelope(message, epoch=self.epoch, session=self.session, seq=self.seq)  # type: ignore[arg-type]


def session() -> Session:
    return Session(HELLO, lambda: 0.5)


def connected(now: float = 0.0) -> tuple[Session, Broker]:
    """A session that has said hello."""
    worker = session()
    worker.tick(now)
    worker.tick(now)
    return worker, Broker()


def ready(now: float = 0.0, welcome: Welcome = WELCOME) -> tuple[Session, Broker]:
    """A session whose first heartbeat, sent at `now`, was acknowledged."""
    worker, broker = connected(now)
    worker.receive(broker.say(welcome), now)
    worker.receive(broker.say(Desired(1, ())), now)
    worker.observe((), now)
    worker.receive(broker.say(HeartbeatAck(1)), now)
    assert worker.state(now) is SessionState.READY
    return worker, broker


def heartbeats(effects: list[Effect]) -> list[Heartbeat]:
    """Return the heartbeats that are sent."""
    messages = [each.envelope.message for each in effects if isinstance(each, Send)]
    return [message for message in messages if isinstance(message, Heartbeat)]


def heartbeat(n: int, seq: int, revision: int = 1, **changes: object) -> Send:
    message = Heartbeat(n, revision, EMPTY, **changes)  # type: ignore[arg-type]
    return Send(Envelope(message, epoch=5, session=SESSION, seq=seq))


def test_it_connects_and_says_hello() -> None:
    worker = session()

    effects = worker.tick(0.0) + worker.tick(0.1)

    assert effects == [Open(0), Send(Envelope(HELLO, epoch=4))]
    assert worker.state(0.1) is SessionState.HELLO_SENT


def test_after_a_while_without_a_broker_it_starts_without_one_once() -> None:
    worker = session()

    found = [now / 10 for now in range(300) if StartWithoutBroker() in worker.tick(now / 10)]

    assert found == [START_TIMEOUT]


def test_with_a_desired_state_it_never_starts_without_one() -> None:
    worker, _ = ready(0.0)

    assert not any(StartWithoutBroker() in worker.tick(now / 10) for now in range(300))


def test_a_revoked_key_starts_nothing() -> None:
    worker, _ = connected()
    worker.receive(Broker(session=NO_SESSION).say(Refused("revoked", "its key was revoked")), 0.0)

    assert not any(StartWithoutBroker() in worker.tick(now / 10) for now in range(300))


def test_a_hello_that_could_not_be_sent_is_tried_again() -> None:
    worker = session()
    worker.tick(0.0)
    (hello,) = worker.tick(0.1)
    assert isinstance(hello, Send)

    worker.unsent(hello.envelope)

    assert worker.state(0.1) is SessionState.CONNECTING
    assert worker.tick(0.2) == [hello]


def test_an_endpoint_that_lets_nobody_in_is_followed_by_the_next() -> None:
    worker = session()
    worker.tick(0.0)

    gave_up = worker.tick(3.0)
    tried_again = worker.tick(3.1)

    assert gave_up == [Close("no connection")]
    assert tried_again == [Open(1)]


def test_a_welcome_and_the_desired_state_are_adopted_and_answered_with_a_heartbeat() -> None:
    worker, broker = connected()

    welcomed = worker.receive(broker.say(WELCOME), 0.1)
    adopted = worker.receive(broker.say(Desired(3, (ASSIGNMENT,))), 0.2)
    told = worker.observe((), 0.2)

    assert welcomed == [RememberEpoch(5), Welcomed(WELCOME)]
    assert adopted == [Adopt(5, 3, (ASSIGNMENT,))]
    assert told == [heartbeat(1, 1, revision=3, observed=())]


def test_the_lease_runs_from_the_sending_of_the_acknowledged_heartbeat() -> None:
    worker, broker = connected()
    worker.receive(broker.say(WELCOME), 0.0)
    worker.receive(broker.say(Desired(1, ())), 0.0)
    worker.observe((), 0.5)

    effects = worker.receive(broker.say(HeartbeatAck(1)), 2.0)

    assert effects == [ExtendFence(8.5), LeaseRenewed()]


def test_an_ack_before_the_desired_state_lets_nothing_run() -> None:
    worker, broker = connected()
    worker.receive(broker.say(WELCOME), 0.0)
    worker.tick(1.0)

    effects = worker.receive(broker.say(HeartbeatAck(1)), 1.1)

    assert effects == []
    assert worker.state(1.1) is SessionState.SYNCING


def test_a_change_of_what_runs_is_told_at_once_and_once() -> None:
    worker, _ = ready()

    told = worker.observe(RUNNING, 0.3)
    again = worker.observe(RUNNING, 0.4)

    digest = observed_digest(RUNNING)
    assert told == [Send(Envelope(Heartbeat(2, 1, digest, RUNNING), epoch=5, session=SESSION, seq=2))]
    assert again == []


def test_trouble_of_the_device_is_told_at_once_and_with_each_heartbeat() -> None:
    worker, broker = ready()

    told = worker.observe((), 0.3, trouble="no kernels")
    again = worker.observe((), 0.4, trouble="no kernels")
    worker.receive(broker.say(HeartbeatAck(2)), 0.5)
    later = worker.tick(2.0)
    gone = worker.observe((), 2.1)

    assert told == [heartbeat(2, 2, trouble="no kernels")]
    assert again == []
    assert later == [heartbeat(3, 3, trouble="no kernels")]
    assert gone == [heartbeat(4, 4)]


def test_the_few_changes_that_a_command_makes_are_each_told_at_once() -> None:
    worker, _ = ready()

    told = [worker.observe((replace(RUNNING[0], reason=str(step)),), 1 + step / 1000) for step in range(3)]

    assert all(told)


def changing(
    worker: Session, observed: Callable[[int], tuple[Observed, ...]], broker: Broker | None
) -> list[Envelope]:
    """What is sent while what runs changes without rest, for eight seconds; `broker` acknowledges it."""
    sent: list[Envelope] = []
    for step in range(8000):  # of a millisecond
        now = 1 + step / 1000
        effects = worker.observe(observed(step), now)
        if step % 100 == 0:
            effects += worker.tick(now)
        for effect in effects:
            if isinstance(effect, Send):
                sent.append(effect.envelope)
                if broker is not None and isinstance(effect.envelope.message, Heartbeat):
                    worker.receive(broker.say(HeartbeatAck(effect.envelope.message.number)), now)
    return sent


@pytest.mark.parametrize("pipelines", [1, 64])
def test_changes_without_rest_stay_within_half_the_budget_of_a_device(pipelines: int) -> None:
    """A broker drops what is beyond, and that ends the session."""
    worker, broker = ready()

    def observed(step: int) -> tuple[Observed, ...]:
        reason = f"{step:0{MAX_REASON}}"
        return tuple(replace(RUNNING[0], pipeline_id=f"{n:064}", reason=reason) for n in range(pipelines))

    sent = changing(worker, observed, broker)

    bodies = sum(len(frame) for envelope in sent for frame in encode(envelope))
    messages, size = len(sent) / 8, bodies / 8
    assert messages <= (DEVICE_MESSAGES.each_second + DEVICE_MESSAGES.burst / 8) / 2
    assert size <= (DEVICE_BYTES.each_second + DEVICE_BYTES.burst / 8) / 2
    assert messages > DEVICE_MESSAGES.each_second / 3 or size > DEVICE_BYTES.each_second / 5


def test_changes_wait_while_nothing_is_acknowledged() -> None:
    """What a connection that stands still delivers at last, all at once, is not beyond the budget either."""
    worker, _ = ready()

    sent = changing(worker, lambda step: (replace(RUNNING[0], reason=str(step)),), None)

    assert 8 < len(sent) < 20


def test_what_runs_is_told_until_it_is_acknowledged() -> None:
    worker, broker = ready()
    worker.observe(RUNNING, 0.3)

    (unacknowledged,) = worker.tick(1.4)
    worker.receive(broker.say(HeartbeatAck(3)), 1.5)
    (acknowledged,) = worker.tick(2.5)

    digest = observed_digest(RUNNING)
    assert unacknowledged == Send(Envelope(Heartbeat(3, 1, digest, RUNNING), epoch=5, session=SESSION, seq=3))
    assert acknowledged == Send(Envelope(Heartbeat(4, 1, digest), epoch=5, session=SESSION, seq=4))


def test_a_broker_that_disagrees_gets_the_whole_list() -> None:
    worker, broker = ready()
    worker.tick(1.0)

    effects = worker.receive(broker.say(HeartbeatAck(2, want_full=True)), 1.1)

    assert effects == [ExtendFence(9.0), heartbeat(3, 3, observed=())]


def test_a_heartbeat_that_could_not_be_sent_never_was() -> None:
    worker, broker = ready()
    (unsent,) = worker.tick(1.0)
    assert isinstance(unsent, Send)
    worker.unsent(unsent.envelope)

    (sent,) = worker.tick(1.1)
    nothing = worker.receive(broker.say(HeartbeatAck(2)), 1.2)

    assert sent == heartbeat(3, 2)
    assert nothing == []


def test_without_acks_it_is_degraded_and_then_fenced_and_then_connects_anew() -> None:
    worker, _broker = ready()
    effects: list[Effect] = []
    states = []

    for tenths in range(1, 110):
        now = tenths / 10
        effects += [e for e in worker.tick(now) if not isinstance(e, Send)]
        states.append(worker.state(now))

    assert effects == [LeaseEnded(), Close("no message for 10 s"), Open(0)]
    assert states[28] is SessionState.READY
    assert states[29] is SessionState.DEGRADED
    assert states[79] is SessionState.FENCED


def test_who_hears_nothing_says_so_until_it_is_answered_again() -> None:
    worker, broker = ready()

    told = [heartbeat for now in range(1, 7) for heartbeat in heartbeats(worker.tick(float(now)))]
    worker.receive(broker.say(HeartbeatAck(told[-1].number)), 6.5)
    (again,) = heartbeats(worker.tick(7.0))

    assert [each.deaf for each in told] == [False, False, True, True, True, True]
    assert not again.deaf


def test_the_broker_sets_how_soon_silence_is_noticed() -> None:
    worker, _broker = ready(welcome=replace(WELCOME, heartbeat_ms=300, self_stop_ms=2_400))
    effects: list[Effect] = []
    states = []

    for hundredths in range(5, 320, 5):
        now = hundredths / 100
        effects += [e for e in worker.tick(now) if not isinstance(e, Send)]
        states.append((now, worker.state(now)))

    assert effects[:2] == [LeaseEnded(), Close("no message for 3 s")]
    assert (0.85, SessionState.READY) in states
    assert (0.9, SessionState.DEGRADED) in states
    assert (2.4, SessionState.FENCED) in states


def test_what_woke_up_emits_nothing_until_a_fresh_ack() -> None:
    worker, broker = ready()
    worker.tick(1.0)

    woke = worker.tick(4.0)
    stale = worker.receive(broker.say(HeartbeatAck(2)), 4.1)
    fresh = worker.receive(broker.say(HeartbeatAck(3)), 4.2)

    assert woke == [CloseFence(), heartbeat(3, 3)]
    assert stale == []
    assert fresh == [ExtendFence(12.0)]


def test_what_slept_through_its_lease_has_lost_it() -> None:
    worker, _ = ready()

    effects = worker.tick(60.0)

    assert effects[:2] == [CloseFence(), LeaseEnded()]


def test_a_desired_state_that_is_known_is_not_adopted_again() -> None:
    worker, broker = ready()
    worker.receive(broker.say(Desired(2, (ASSIGNMENT,))), 0.1)

    assert worker.receive(broker.say(Desired(2, (ASSIGNMENT,))), 0.2) == []
    assert worker.receive(broker.say(Desired(1, ())), 0.3) == []


def test_a_lower_epoch_has_no_effect() -> None:
    worker, _broker = ready()
    old = Envelope(Desired(9, (ASSIGNMENT,)), epoch=4, session=SESSION, seq=4)

    assert worker.receive(old, 0.1) == []
    assert worker.receive(Envelope(Refused("stale_session"), epoch=4, session=NO_SESSION), 0.1) == []


def test_a_broker_that_was_replaced_gets_no_session() -> None:
    worker, _ = connected()

    effects = worker.receive(Broker(epoch=3).say(WELCOME), 0.1)

    reason = "the broker is in epoch 3, and epoch 4 was seen: is it an old one, or its store an old copy?"
    assert effects == [Close(reason)]


def test_another_session_has_no_effect() -> None:
    worker, _broker = ready()

    assert worker.receive(Envelope(Desired(9, (ASSIGNMENT,)), epoch=5, session=b"o" * 16, seq=4), 0.1) == []


def test_a_gap_in_the_sequence_ends_the_session() -> None:
    worker, broker = ready()
    broker.say(HeartbeatAck(2))

    effects = worker.receive(broker.say(Desired(2, (ASSIGNMENT,))), 0.1)

    assert effects == [Close("expected message 4, got message 5")]


def test_connections_that_take_long_are_given_longer() -> None:
    """With others that connect, too, giving up would make all wait for one more handshake."""
    worker = session()
    now, opened, waited = 0.0, 0.0, list[int]()
    while len(waited) < 9:
        for effect in worker.tick(now):
            if isinstance(effect, Open):
                opened = now
            elif isinstance(effect, Send):
                worker.unsent(effect.envelope)
            elif isinstance(effect, Close):
                waited.append(round(now - opened))
        now += 0.1

    assert waited == [3, 3, 6, 6, 12, 12, 24, 24, 24]


def test_a_busy_broker_is_given_longer_to_answer_until_it_has_answered() -> None:
    """Of a fleet that comes back at once, each new connection would delay the answers to all others."""
    worker = session()
    now, said, waited = 0.0, 0.0, list[int]()
    while len(waited) < 12:
        for effect in worker.tick(now):
            if isinstance(effect, Send):
                said = now
                if len(waited) == 9:
                    worker.receive(Envelope(Refused("too_many"), epoch=5), now)
                    waited.append(0)
            elif isinstance(effect, Close):
                waited.append(round(now - said))
        now += 0.1

    assert waited == [5, 5, 10, 10, 20, 20, 40, 40, 40, 0, 5, 5]


def test_the_interval_of_statuses_is_what_the_broker_said_last_also_in_the_next_session() -> None:
    worker, broker = ready()
    before = worker.status_interval
    worker.tick(1.0)

    worker.receive(broker.say(HeartbeatAck(2, status_ms=1_800)), 1.1)
    told = worker.status_interval
    worker.receive(Broker(epoch=6).say(Refused("stale_session")), 1.2)

    assert (before, told, worker.status_interval) == (1.0, 1.8, 1.8)


def test_a_restarted_broker_gets_a_new_hello_at_once_over_the_same_connection() -> None:
    worker, _ = ready()
    restarted = Broker(epoch=6)

    refused = worker.receive(restarted.say(Refused("stale_session", "hello first")), 1.0)

    hello = Hello(device="cam-7", boot=BOOT, agent="0.1.0", capacity=4, seen_epoch=6)
    assert refused == [RememberEpoch(6), Send(Envelope(hello, epoch=6))]


def test_a_session_that_is_refused_again_before_an_acknowledgement_waits_for_its_back_off() -> None:
    worker, _ = ready()
    worker.receive(Broker(epoch=6).say(Refused("stale_session")), 1.0)
    later = Broker(epoch=7, session=b"t" * 16)
    welcome = Welcome(
        session=later.session, self_stop_ms=8_000, heartbeat_ms=1_000, short_id=7, api="", ticket=""
    )
    worker.receive(later.say(welcome), 1.1)

    refused = worker.receive(Envelope(Refused("stale_session"), epoch=7, session=later.session), 1.2)

    assert refused == [Close("refused, stale_session: ")]
    assert worker.tick(1.2) == []
    assert worker.tick(1.3) == [Open(0)]


def test_the_desired_state_of_a_restarted_broker_is_adopted_though_its_revisions_begin_anew() -> None:
    worker, broker = ready()
    worker.receive(broker.say(Desired(9, ())), 0.1)
    restarted = Broker(epoch=6, session=b"t" * 16)
    worker.receive(Envelope(Refused("stale_session"), epoch=6, session=SESSION), 0.2)
    worker.receive(
        restarted.say(
            Welcome(session=b"t" * 16, self_stop_ms=8_000, heartbeat_ms=1_000, short_id=7, api="", ticket="")
        ),
        0.7,
    )

    assert worker.receive(restarted.say(Desired(1, (ASSIGNMENT,))), 0.8) == [Adopt(6, 1, (ASSIGNMENT,))]


def test_whoever_is_refused_for_good_does_not_hammer() -> None:
    worker, _broker = connected()
    worker.receive(Envelope(Refused("revoked", retry_ms=1000), epoch=5, session=NO_SESSION), 0.0)

    assert worker.tick(0.9) == []
    assert worker.tick(1.0) == [Open(0)]


def test_the_back_off_grows_and_ends_at_five_seconds() -> None:
    worker = session()
    waited = []
    now = 0.0

    for _ in range(10):
        while not any(isinstance(effect, Open) for effect in worker.tick(now)):
            now += 0.01
        worker.tick(now)
        began = now
        worker.receive(Envelope(Refused("stale_session"), epoch=5, session=NO_SESSION), now)
        while worker._open_at > now:
            now += 0.01
        waited.append(round(now - began, 1))

    assert waited == [0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 2.5, 2.5]


def test_subscribers_are_allowed_and_older_lists_are_not() -> None:
    worker, broker = ready()
    key, other = "k" * 40, "o" * 40

    assert worker.receive(broker.say(Subscribers(2, (key, other))), 0.1) == [AllowSubscribers((key, other))]
    assert worker.receive(broker.say(Subscribers(1, (key,))), 0.2) == []


def test_it_says_goodbye_only_in_a_session() -> None:
    worker, _ = ready()

    assert worker.leave("stop") == [Send(Envelope(Bye("stop"), epoch=5, session=SESSION, seq=2))]
    assert session().leave("stop") == []


# whatever happens ------------------------------------------------------------------------------------------


@dataclass
class World:
    """A worker, a broker, a network between them that loses, repeats and delays; and what must hold."""

    rng: random.Random
    now: float = 0.0
    epoch: int = 5
    revision: int = 1
    worker: Session = field(init=False)
    peer: Broker | None = None
    heard_seq: int = 0
    to_worker: list[Envelope] = field(default_factory=list)
    fence: float = 0.0
    leased: bool = False
    opened: bool = False
    adopted: list[tuple[int, int]] = field(default_factory=list)
    best_sent: float = float("-inf")  # of the heartbeats that the broker has acknowledged

    def __post_init__(self) -> None:
        self.worker = Session(HELLO, self.rng.random)

    def perform(self, effects: list[Effect]) -> None:  # noqa: C901 - a table
        assert sum(isinstance(effect, Send) for effect in effects) <= 1
        for effect in effects:
            match effect:
                case Open():
                    assert not self.opened
                    self.opened = True
                case Close():
                    assert self.opened
                    self.opened, self.to_worker, self.peer = False, [], None
                case Send():
                    assert self.opened
                    if self.rng.random() < 0.2:
                        self.worker.unsent(effect.envelope)
                    else:
                        self.arrive(effect.envelope)
                case Adopt():
                    self.adopted.append((effect.epoch, effect.revision))
                    self.perform(self.worker.observe((), self.now))
                case ExtendFence():
                    self.fence = effect.until
                case CloseFence():
                    self.fence = 0.0
                case LeaseEnded():
                    assert self.leased
                    self.leased = False
                case LeaseRenewed():
                    assert not self.leased
                    self.leased = True
        self.worker.check()
        assert self.fence <= max(0.0, self.best_sent + 8.0), "it may emit longer than the broker knows"
        assert self.adopted == sorted(set(self.adopted)), "an old assignment was adopted"
        assert not (self.fence > self.now and not self.leased)

    def arrive(self, envelope: Envelope) -> None:
        """What the worker sent comes to the broker, and the answers are under way."""
        message = envelope.message
        if isinstance(message, Hello):
            self.peer = Broker(self.epoch, self.rng.randbytes(16))
            self.heard_seq = 0
            welcome = Welcome(
                session=self.peer.session,
                self_stop_ms=8_000,
                heartbeat_ms=1_000,
                short_id=7,
                api="",
                ticket="",
            )
            self.to_worker += [self.peer.say(welcome), self.peer.say(Desired(self.revision, ()))]
        elif isinstance(message, Heartbeat):
            peer = self.peer
            right = peer is not None and (peer.epoch, peer.session) == (envelope.epoch, envelope.session)
            if peer is None or not right or envelope.seq != self.heard_seq + 1:
                self.to_worker.append(
                    Envelope(Refused("stale_session"), epoch=self.epoch, session=envelope.session)
                )
                return
            self.heard_seq = envelope.seq
            if message.applied_revision != self.revision:
                self.to_worker.append(peer.say(Desired(self.revision, ())))
            self.to_worker.append(peer.say(HeartbeatAck(message.number, self.rng.random() < 0.1)))
            self.best_sent = max(self.best_sent, self.now)

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.5 and self.to_worker:
            envelope = self.to_worker.pop(0)
            if self.rng.random() < 0.9:
                self.perform(self.worker.receive(envelope, self.now))
        elif chance < 0.53:
            self.epoch, self.revision, self.peer = self.epoch + 1, 1, None
        elif chance < 0.56:
            self.revision += 1
        elif chance < 0.60 and self.to_worker:
            self.to_worker.insert(0, self.to_worker[0])
        elif chance < 0.62:
            self.now += self.rng.uniform(0, 12)
        else:
            self.now += 0.1
            self.perform(self.worker.tick(self.now))


@given(st.integers(0, 2**32))
@settings(max_examples=60)
def test_whatever_the_network_does_the_laws_hold_and_it_heals(seed: int) -> None:
    world = World(random.Random(seed))

    for _ in range(400):
        world.step()

    # Then the network works again.
    world.rng.random = lambda: 0.95  # type: ignore[method-assign]
    for _ in range(400):
        world.now += 0.1
        world.perform(world.worker.tick(world.now))
        while world.to_worker:
            world.perform(world.worker.receive(world.to_worker.pop(0), world.now))
    assert world.worker.state(world.now) is SessionState.READY
    assert world.adopted[-1] == (world.epoch, world.revision)
    assert world.fence > world.now


@pytest.mark.parametrize("code", ["revoked", "quarantined"])
def test_whose_key_is_no_longer_its_own_runs_and_shows_nothing_pinned_or_not(code: RefusalCode) -> None:
    worker, broker = ready()
    worker.receive(broker.say(Desired(9, (ASSIGNMENT,))), 0.1)

    effects = worker.receive(broker.say(Refused(code, "enrol anew")), 0.2)

    assert effects == [Close(f"refused, {code}: enrol anew"), Adopt(5, 0, ()), AllowSubscribers(())]


def test_who_is_let_in_again_adopts_the_same_revision_again() -> None:
    worker, broker = ready()
    worker.receive(broker.say(Desired(9, (ASSIGNMENT,))), 0.1)
    worker.receive(broker.say(Refused("quarantined")), 0.2)
    for now in (2.0, 2.1):
        worker.tick(now)
    again = Broker(session=b"t" * 16)
    worker.receive(
        again.say(
            Welcome(session=b"t" * 16, self_stop_ms=8_000, heartbeat_ms=1_000, short_id=7, api="", ticket="")
        ),
        2.2,
    )

    assert worker.receive(again.say(Desired(9, (ASSIGNMENT,))), 2.3) == [Adopt(5, 9, (ASSIGNMENT,))]


# several brokers ------------------------------------------------------------------------------------------


NOT_LEADER = Refused("not_leader", "tcp://b:7771 leads", 500)


def of_several() -> Session:
    """A session that has said hello to the first of two brokers, at 0 s."""
    worker = Session(HELLO, lambda: 0.5, several=True)
    worker.tick(0.0)
    worker.tick(0.0)
    return worker


def opened(effects: list[Effect]) -> list[int]:
    return [each.endpoint for each in effects if isinstance(each, Open)]


def hellos(effects: list[Effect]) -> int:
    return sum(isinstance(each, Send) and isinstance(each.envelope.message, Hello) for each in effects)


def test_a_broker_that_does_not_lead_is_left_for_the_next_at_once() -> None:
    worker = of_several()

    effects = worker.receive(Broker(session=NO_SESSION).say(NOT_LEADER), 0.1)
    effects += worker.tick(0.2)

    assert effects == [Close("tcp://b:7771 leads"), Open(1)]


def test_a_broker_that_does_not_lead_may_say_so_in_an_epoch_that_is_over() -> None:
    worker = of_several()

    effects = worker.receive(Broker(epoch=1, session=NO_SESSION).say(NOT_LEADER), 0.1)

    assert effects == [Close("tcp://b:7771 leads")]
    worker.check()


def test_where_none_leads_one_is_asked_again_over_the_same_connection() -> None:
    worker = of_several()
    broker = Broker(session=NO_SESSION)
    worker.receive(broker.say(NOT_LEADER), 0.1)
    worker.tick(0.2)
    worker.tick(0.2)

    assert worker.receive(broker.say(NOT_LEADER), 0.3) == []
    asked = [now for now in range(3, 12) if hellos(worker.tick(now / 10))]

    assert asked == [7]
    effects = worker.receive(Broker().say(WELCOME), 0.75)
    assert Welcomed(WELCOME) in effects
    worker.check()


def test_where_none_leads_for_long_the_next_is_asked() -> None:
    worker = of_several()
    broker = Broker(session=NO_SESSION)
    worker.receive(broker.say(NOT_LEADER), 0.0)
    found = []

    for tick in range(1, 80):
        effects = worker.tick(tick / 10)
        found += [(tick, each) for each in opened(effects)]
        if hellos(effects):
            assert not opened(worker.receive(broker.say(NOT_LEADER), tick / 10))

    assert found == [(1, 1), (35, 2), (37, 3), (71, 4), (73, 5)]
    worker.check()


def test_a_leader_that_falls_silent_is_left_before_the_lease_ends() -> None:
    worker = Session(HELLO, lambda: 0.5, several=True)
    worker.tick(0.0)
    worker.tick(0.0)
    broker = Broker()
    worker.receive(broker.say(WELCOME), 0.0)
    worker.receive(broker.say(Desired(1, ())), 0.0)
    worker.observe((), 0.0)
    worker.receive(broker.say(HeartbeatAck(1)), 0.0)

    found = {tick: opened(worker.tick(tick / 10)) for tick in range(1, 40)}

    assert {tick: each for tick, each in found.items() if each} == {31: [1]}
    assert worker.state(3.2) is not SessionState.FENCED


def test_of_several_brokers_one_without_a_connection_is_soon_left() -> None:
    worker = Session(HELLO, lambda: 0.5, several=True)
    found = []

    for tick in range(25):
        effects = worker.tick(tick / 10)
        found += opened(effects)
        for each in effects:
            if isinstance(each, Send):
                worker.unsent(each.envelope)

    assert found == [0, 1, 2]


def test_one_broker_alone_that_does_not_lead_is_asked_again() -> None:
    worker, _ = connected()
    broker = Broker(session=NO_SESSION)
    found = 0

    for tick in range(1, 50):
        effects = worker.tick(tick / 10)
        if hellos(effects):
            found += 1
            worker.receive(broker.say(NOT_LEADER), tick / 10)
        elif tick == 1:
            worker.receive(broker.say(NOT_LEADER), tick / 10)

    assert 5 <= found <= 15
    worker.check()
