"""The worker's side of its session with the broker: pure decisions, no socket and no clock.

    connecting --Hello sent--> hello_sent --Welcome--> syncing --Desired--> ready <--HeartbeatAck-- degraded
    ready --no HeartbeatAck--> degraded --lease ends--> fenced
    ready, syncing --refused as stale, the first time--> hello_sent, over the same connection
    any --refused, silent, or a gap in `seq`--> waiting --back-off--> connecting
    any --refused, as another broker leads--> waiting --> connecting to the next one
    hello_sent --the same again--> connecting --a moment--> hello_sent, over the same connection

The lease is independent of these states. It is measured from the *sending* of the last heartbeat that was
acknowledged, so it ends here before it ends at the broker. `now` is CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope
from streamfleet_core.protocol.costs import Measured
from streamfleet_core.protocol.messages import (
    Bye,
    ByeReason,
    Desired,
    DeviceMessage,
    Drill,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Refused,
    Subscribers,
    Welcome,
)
from streamfleet_core.protocol.rates import DEVICE_BYTES, DEVICE_MESSAGES, Bucket, Rate
from streamfleet_core.protocol.tasks.trials import PipelineFigures, Trials
from streamfleet_core.protocol.values import Observed, observed_digest
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_worker.decisions.session_effects import (
    Adopt,
    AllowSubscribers,
    CauseFault,
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

DEGRADED_AFTER = 3  # heartbeats without an acknowledgement
# Heartbeats without any message, until they say so. If only what the broker sends is lost, we stop movable
# pipelines, and heartbeats that renew our lease at the broker would keep it from moving them.
DEAF_AFTER = 3
SILENCE_TIMEOUT = 10  # heartbeats without any message, until the socket is closed
# The same two with several brokers: another one may lead, and it has to be found before the lease ends.
SILENCE_TIMEOUT_OF_SEVERAL = 3
CONNECT_TIMEOUT_OF_SEVERAL = 1.0  # seconds
# Seconds for which a broker that does not lead is asked again. If the leader is gone, it leads soon.
ELECTION_TIMEOUT = 3.0
HELLO_TIMEOUT = 5.0  # seconds from Hello to Welcome, doubled as the time to connect below
START_TIMEOUT = 8.0  # seconds from the start to the desired state, until what is stored starts without it
CONNECT_TIMEOUT = 3.0  # seconds for one endpoint to accept the connection, before the next is tried
# These times double with every second attempt, so often at most. When a whole fleet connects at once, giving
# up would make all others wait for one more handshake.
MAX_DOUBLINGS = 3
WAKE_GAP = 2.0  # seconds between two inputs: after a longer gap the process was stopped or suspended
BACKOFF_FIRST = 0.1  # seconds
BACKOFF_LAST = 5.0  # seconds
# Within these rates a change is sent at once, otherwise with a later tick. A device with many pipelines sends
# fewer heartbeats, each with more in it.
CHANGE_MESSAGES = Rate(DEVICE_MESSAGES.each_second / 2, DEVICE_MESSAGES.burst / 2)
CHANGE_BYTES = Rate(DEVICE_BYTES.each_second / 4, DEVICE_BYTES.each_second / 4)
ENTRY = 115  # bytes, at most, of an observed pipeline without its id and its reason
# With this many unacknowledged heartbeats, changes wait for the next regular one: a stalled connection
# delivers everything at once when it continues.
MAX_UNANSWERED = 8
MEASURED_INTERVAL = 10.0  # seconds between two reports of what was measured
MAX_OUTSTANDING = 64  # heartbeats that are kept until they are acknowledged
STATUS_INTERVAL = 1.0  # seconds between two statuses, until a broker says otherwise


class SessionState(str, enum.Enum):
    """The state of a session, as status documents show it."""

    WAITING = "waiting"  # until the backoff is over
    CONNECTING = "connecting"
    HELLO_SENT = "hello_sent"
    SYNCING = "syncing"  # welcomed, but without the desired state
    READY = "ready"
    DEGRADED = "degraded"  # the last `DEGRADED_AFTER` heartbeats were not acknowledged
    FENCED = "fenced"  # none acknowledged for so long that another device may run our movable pipelines


@dataclass(frozen=True, slots=True)
class _SentHeartbeat:
    sent_at: float
    digest: int


class Session:
    """The connection of one device to its broker. Every input returns effects, in the order to perform them.

    `hello` describes the device; its `seen_epoch` is the one stored by earlier runs. `rng` returns numbers in
    [0, 1) for the jitter. One input sends at most one message. `several`: the endpoints are those of several
    brokers, of which one leads.
    """

    def __init__(self, hello: Hello, rng: Callable[[], float], *, several: bool = False) -> None:
        self._hello = hello
        self._rng = rng
        self._silence_timeout = SILENCE_TIMEOUT_OF_SEVERAL if several else SILENCE_TIMEOUT  # heartbeats
        self._connect_timeout = CONNECT_TIMEOUT_OF_SEVERAL if several else CONNECT_TIMEOUT
        self._state = SessionState.WAITING
        self._turned_at: float | None = None
        self._start_until: float | None = None  # when the wait for the first desired state ends
        self._started = False  # with a desired state, or without one
        self._open_at = float("-inf")  # when the backoff is over
        self._opened_at = 0.0
        self._heard_at = 0.0
        self._woke_at = float("-inf")  # after a stop or a suspension, in which nothing could be heard
        self._endpoint = 0  # +1 after a refused or unanswered connection
        self._unconnected = 0  # connections in a row that did not come about
        self._unanswered = 0  # Hellos in a row without an answer
        self._hello_at = float("-inf")  # not before, over a connection that is there
        self._not_leading = 0  # refusals in a row, as another broker leads
        self._election_until = float("-inf")  # until then, the broker of this connection is asked again
        self._backoff = Backoff(first=BACKOFF_FIRST, limit=BACKOFF_LAST, jitter=1.0)

        self._seen_epoch = hello.seen_epoch  # never falls
        self._applied: tuple[int, int] = (hello.seen_epoch, 0)  # the adopted (epoch, revision); never falls
        self._subscribers: tuple[int, int] = (hello.seen_epoch, 0)  # the same for the keys

        self._welcome: Welcome | None = None  # of the present session
        self._epoch = 0  # of the present session
        self._sent_seq = 0
        self._heard_seq = 0
        self._heartbeat_number = 0  # never falls, also across sessions
        self._heartbeat_at = 0.0
        self._message_budget = Bucket(CHANGE_MESSAGES)
        self._byte_budget = Bucket(CHANGE_BYTES)
        # Sent and not acknowledged, in this session and since the last wake-up.
        self._heartbeats: dict[int, _SentHeartbeat] = {}
        self._synced = False  # this session has sent the desired state
        self._status_interval = STATUS_INTERVAL  # as a broker told it last

        self._observed: tuple[Observed, ...] = ()
        self._trouble = ""
        self._measured: Measured | None = None
        self._told_measured: Measured | None = None  # the same object, once this session has sent it
        self._measured_at = float("-inf")  # when it was sent
        self._figures: tuple[PipelineFigures, ...] | None = None  # not sent yet
        self._digest = observed_digest(())
        self._reported: tuple[int, int, str] | None = (
            None  # digest, revision and trouble that the last heartbeat carried
        )
        self._known_digest: int | None = None  # of the state that the broker has acknowledged

        self._acked_at: float | None = None  # when the last acknowledged heartbeat was *sent*
        self._leased = False
        self._lease_until = float("-inf")
        self._fence_open = False

    # inputs

    def tick(self, now: float) -> list[Effect]:
        """Advance the time. Called ten times a second."""
        effects = self._advance(now) + self._start(now)
        if self._state is SessionState.WAITING:
            if now >= self._open_at:
                self._state = SessionState.CONNECTING
                self._opened_at = now
                effects.append(Open(self._endpoint))
        elif self._state is SessionState.CONNECTING:
            effects += self._connect(now)
        elif self._state is SessionState.HELLO_SENT:
            timeout = HELLO_TIMEOUT * _doubled(self._unanswered)
            if now - self._heard_at >= timeout:
                effects += self._disconnect(now, f"no answer to Hello for {timeout:.0f} s")
                self._endpoint += 1
                self._unanswered += 1
        elif now - self._heard_at >= (timeout := self._silence_timeout * self._interval):
            effects += self._disconnect(now, f"no message for {timeout:g} s")
            if self._silence_timeout == SILENCE_TIMEOUT_OF_SEVERAL:
                self._endpoint += 1
        elif now >= self._heartbeat_at or self._may_send_change(now):
            effects.append(self._heartbeat(now))
        return effects

    def measure(self, measured: Measured) -> None:
        """Set what was measured. It is sent with a later heartbeat."""
        self._measured = measured

    def tell_figures(self, figures: tuple[PipelineFigures, ...]) -> None:
        """Set what pipelines do. It is sent with the next heartbeat that has room, if it is new then."""
        self._figures = figures

    def observe(self, observed: tuple[Observed, ...], now: float, *, trouble: str = "") -> list[Effect]:
        """Set the observed state. A change is sent at once; frequent changes are sent with the next tick.

        `trouble`: what is wrong with the device as a whole.
        """
        effects = self._advance(now)
        self._trouble = trouble
        if observed != self._observed:
            self._observed = observed
            self._digest = observed_digest(observed)
        if self._may_send_change(now):
            effects.append(self._heartbeat(now))
        return effects

    def receive(self, envelope: Envelope, now: float) -> list[Effect]:
        """Handle a message. One of another session or of a replaced broker has no effect."""
        effects = self._advance(now)
        if self._state in (SessionState.WAITING, SessionState.CONNECTING):
            return effects
        message = envelope.message
        if isinstance(message, Refused) and message.code == "not_leader":
            # It may know an epoch that is over, and says nothing of its own.
            return effects + self._not_leader(message, envelope, now)
        if envelope.epoch < self._seen_epoch:
            return effects + self._outdated(envelope, now)
        if envelope.epoch > self._seen_epoch:
            self._seen_epoch = envelope.epoch
            effects.append(RememberEpoch(envelope.epoch))
        if isinstance(message, Refused):
            effects += self._refused(message, envelope, now)
        elif self._welcome is None:
            if isinstance(message, Welcome):
                effects += self._welcomed(message, envelope, now)
        elif envelope.session == self._session and envelope.epoch == self._epoch:
            if envelope.seq != self._heard_seq + 1:
                expected = self._heard_seq + 1
                effects += self._disconnect(now, f"expected message {expected}, got message {envelope.seq}")
            else:
                self._heard_seq = envelope.seq
                self._heard_at = now
                effects += self._handle(message, now)
        return effects

    def unsent(self, envelope: Envelope) -> None:
        """Undo the last `Send`: it could not be performed."""
        if isinstance(envelope.message, Hello):
            self._state = SessionState.CONNECTING
        elif isinstance(envelope.message, Heartbeat):
            self._sent_seq -= 1
            self._heartbeats.pop(envelope.message.number, None)
            self._heartbeat_at = float("-inf")  # the next tick tries again

    def leave(self, reason: ByeReason) -> list[Effect]:
        """Say goodbye: the agent stops on purpose."""
        if self._welcome is None:
            return []
        return [Send(self._in_session(Bye(reason)))]

    # facts

    def state(self, now: float) -> SessionState:
        """Return the state that status documents show."""
        if self._state is not SessionState.READY:
            return self._state
        if not self._leased:
            return SessionState.FENCED
        if self._acked_at is None or now - self._acked_at >= DEGRADED_AFTER * self._interval:
            return SessionState.DEGRADED
        return SessionState.READY

    @property
    def applied_revision(self) -> int:
        """The revision of the desired state that was adopted last."""
        return self._applied[1]

    @property
    def status_interval(self) -> float:
        """Seconds between two statuses in which no state has changed."""
        return self._status_interval

    def check(self) -> None:
        """Assert the invariants."""
        in_session = self._state in (SessionState.SYNCING, SessionState.READY)
        assert in_session == (self._welcome is not None)
        assert self._synced == (self._state is SessionState.READY)
        assert self._applied[0] <= self._seen_epoch
        assert not self._heartbeats or in_session
        assert len(self._heartbeats) <= MAX_OUTSTANDING
        assert not self._fence_open or self._leased, "emission without a lease"
        assert not self._leased or self._acked_at is not None
        assert self._epoch <= self._seen_epoch

    # turns

    def _concerns(self, refusal: Envelope) -> bool:
        """Whether a refusal is about the present session, or about none."""
        return refusal.session in (NO_SESSION, self._session)

    @property
    def _session(self) -> bytes:
        return NO_SESSION if self._welcome is None else self._welcome.session

    @property
    def _interval(self) -> float:
        """Seconds between two heartbeats, as the broker of this session wants them."""
        assert self._welcome is not None
        return self._welcome.heartbeat_ms / 1000

    def _advance(self, now: float) -> list[Effect]:
        """Apply the passing of time, before any other input."""
        effects: list[Effect] = []
        if self._turned_at is not None and now - self._turned_at > WAKE_GAP:
            # An acknowledgement that waits in the socket answers an old heartbeat: it proves no contact.
            self._heartbeats.clear()
            self._heartbeat_at = float("-inf")
            self._woke_at = now
            if self._fence_open:
                self._fence_open = False
                effects.append(CloseFence())
        self._turned_at = now
        if self._leased and now >= self._lease_until:
            self._leased = False
            self._fence_open = False
            effects.append(LeaseEnded())
        return effects

    def _start(self, now: float) -> list[Effect]:
        """Wait for the first desired state, but not for a broker that is away."""
        if self._start_until is None:
            self._start_until = now + START_TIMEOUT
        if self._started or now < self._start_until:
            return []
        self._started = True
        return [StartWithoutBroker()]

    def _connect(self, now: float) -> list[Effect]:
        """Say hello as soon as there is a connection, or try the next endpoint."""
        patience = self._connect_timeout * _doubled(self._unconnected)
        if now - self._opened_at < patience:
            return [self._say_hello(now)] if now >= self._hello_at else []
        self._endpoint += 1
        self._unconnected += 1
        return self._disconnect(now, "no connection", counts=False)

    def _say_hello(self, now: float) -> Effect:
        self._state = SessionState.HELLO_SENT
        self._heard_at = now
        hello = replace(self._hello, seen_epoch=self._seen_epoch, observed=self._observed)
        return Send(Envelope(hello, epoch=self._seen_epoch))

    def _is_deaf(self, now: float) -> bool:
        """Whether the broker has said nothing for too long."""
        return now - max(self._heard_at, self._woke_at) >= DEAF_AFTER * self._interval

    def _may_send_change(self, now: float) -> bool:
        """Whether there is a change to send, and the broker's limits for one device allow a message now."""
        return (
            self._welcome is not None
            and self._reported != (self._digest, self._applied[1], self._trouble)
            and len(self._heartbeats) < MAX_UNANSWERED
            and self._message_budget.has(1, now)
            and self._byte_budget.has(_size(self._observed), now)
        )

    def _heartbeat(self, now: float) -> Effect:
        assert self._welcome is not None
        self._message_budget.charge(1, now)
        self._byte_budget.charge(_size(self._observed), now)
        self._heartbeat_number += 1
        self._heartbeat_at = now + self._interval
        self._heartbeats[self._heartbeat_number] = _SentHeartbeat(now, self._digest)
        while len(self._heartbeats) > MAX_OUTSTANDING:
            del self._heartbeats[next(iter(self._heartbeats))]
        self._reported = (self._digest, self._applied[1], self._trouble)
        changed = self._digest != self._known_digest
        measured = figures = None
        is_due = now - self._measured_at >= MEASURED_INTERVAL
        if not changed and is_due and self._measured is not self._told_measured:
            measured = self._told_measured = self._measured
            self._measured_at = now
        elif not changed:
            figures, self._figures = self._figures, None
        return Send(
            self._in_session(
                Heartbeat(
                    number=self._heartbeat_number,
                    applied_revision=self._applied[1],
                    observed_digest=self._digest,
                    observed=self._observed if changed else None,
                    trouble=self._trouble,
                    measured=measured,
                    figures=figures,
                    deaf=self._is_deaf(now),
                )
            )
        )

    def _in_session(self, message: DeviceMessage) -> Envelope:
        self._sent_seq += 1
        return Envelope(message, epoch=self._epoch, session=self._session, seq=self._sent_seq)

    # messages

    def _welcomed(self, welcome: Welcome, envelope: Envelope, now: float) -> list[Effect]:
        self._state = SessionState.SYNCING
        self._unconnected = self._unanswered = self._not_leading = 0
        self._welcome = welcome
        self._epoch = envelope.epoch
        self._sent_seq = 0
        self._heard_seq = envelope.seq
        self._heard_at = now
        self._heartbeat_at = now + self._interval
        # Revisions of different epochs cannot be compared.
        if self._applied[0] != envelope.epoch:
            self._applied = (envelope.epoch, 0)
            self._subscribers = (envelope.epoch, 0)
        self._known_digest = None
        self._reported = None
        self._told_measured = None
        return [Welcomed(welcome)]

    def _handle(self, message: object, now: float) -> list[Effect]:
        if isinstance(message, HeartbeatAck):
            return self._acknowledged(message, now)
        if isinstance(message, Desired):
            self._state = SessionState.READY
            self._synced = True
            if (self._epoch, message.revision) <= self._applied:
                return []
            self._applied = (self._epoch, message.revision)
            self._started = True
            trials = message.trials or Trials()
            if not trials.measured:
                self._figures = None
            return [Adopt(self._epoch, message.revision, message.assignments, message.optimisation, trials)]
        if isinstance(message, Subscribers):
            if (self._epoch, message.revision) < self._subscribers:
                return []
            self._subscribers = (self._epoch, message.revision)
            return [AllowSubscribers(message.keys)]
        if isinstance(message, Drill):
            return [CauseFault(message)]
        return []

    def _acknowledged(self, ack: HeartbeatAck, now: float) -> list[Effect]:
        self._status_interval = ack.status_ms / 1000
        heartbeat = self._heartbeats.get(ack.number)
        if heartbeat is None:
            return []
        for number in [number for number in self._heartbeats if number <= ack.number]:
            del self._heartbeats[number]
        self._backoff.succeeded()
        self._known_digest = heartbeat.digest
        effects: list[Effect] = []
        if self._synced:
            effects += self._renew(heartbeat.sent_at, now)
        if ack.want_full:
            self._known_digest = None
            effects.append(self._heartbeat(now))
        return effects

    def _renew(self, sent_at: float, now: float) -> list[Effect]:
        """Renew the lease. Before we know the desired state, another device may already run our pipelines."""
        assert self._welcome is not None
        self._acked_at = sent_at
        self._lease_until = sent_at + self._welcome.self_stop_ms / 1000
        if self._lease_until <= now:
            return []
        effects: list[Effect] = [ExtendFence(self._lease_until)]
        if not self._leased:
            effects.append(LeaseRenewed())
        self._leased = True
        self._fence_open = True
        return effects

    def _outdated(self, envelope: Envelope, now: float) -> list[Effect]:
        """Leave a broker that was replaced by a newer one, with a reason for the log."""
        if not isinstance(envelope.message, Welcome) or self._state is not SessionState.HELLO_SENT:
            return []
        self._endpoint += 1
        return self._disconnect(
            now,
            f"the broker is in epoch {envelope.epoch}, and epoch {self._seen_epoch} was seen:"
            " is it an old one, or its store an old copy?",
        )

    def _refused(self, refused: Refused, envelope: Envelope, now: float) -> list[Effect]:
        if not self._concerns(envelope):
            return []
        self._unanswered = 0
        if refused.code == "stale_session" and self._welcome is not None and not self._backoff.failures:
            # The broker has restarted. A new connection would cost both ends a further handshake, at a time
            # when the whole fleet comes back.
            self._backoff.failed()
            self._end_session()
            self._opened_at = now
            return [self._say_hello(now)]
        effects = self._disconnect(now, f"refused, {refused.code}: {refused.detail}")
        if refused.code in ("revoked", "quarantined"):
            # The key is revoked or in use on two machines: stop everything, also pinned pipelines.
            self._applied = self._subscribers = (self._seen_epoch, 0)
            self._started = True
            effects += [Adopt(self._seen_epoch, 0, ()), AllowSubscribers(())]
        if refused.code != "stale_session":  # which the next Hello solves
            self._open_at = max(self._open_at, now + refused.retry_ms / 1000)
        return effects

    def _not_leader(self, refused: Refused, envelope: Envelope, now: float) -> list[Effect]:
        """Ask the next broker. If that one does not lead either, wait where we are: one of them will."""
        if not self._concerns(envelope):
            return []
        self._unanswered = 0
        self._not_leading += 1
        if self._not_leading == 2:
            self._election_until = now + ELECTION_TIMEOUT
        if self._not_leading > 1 and now < self._election_until:
            self._end_session()
            self._state = SessionState.CONNECTING  # it is connected
            self._opened_at = now
            self._hello_at = now + refused.retry_ms / 1000 * (0.5 + self._rng() / 2)
            return []
        if self._not_leading > 1:
            self._not_leading = 0
        self._endpoint += 1
        effects = self._disconnect(now, refused.detail, counts=False)
        self._open_at = min(self._open_at, now + BACKOFF_FIRST * self._rng())
        return effects

    def _disconnect(self, now: float, reason: str, *, counts: bool = True) -> list[Effect]:
        self._state = SessionState.WAITING
        self._hello_at = float("-inf")
        self._end_session()
        pause = self._backoff.failed if counts else self._backoff.pause
        self._open_at = now + pause(self._rng())
        return [Close(reason)]

    def _end_session(self) -> None:
        self._welcome = None
        self._epoch = 0
        self._synced = False
        self._heartbeats.clear()


def _doubled(attempts: int) -> int:
    """How many times longer the next attempt lasts than the first one."""
    return 1 << min(attempts // 2, MAX_DOUBLINGS)


def _size(observed: tuple[Observed, ...]) -> int:
    """Return the maximum size of a heartbeat with these pipelines, in bytes."""
    return sum(ENTRY + len(entry.pipeline_id) + len(entry.reason.encode()) for entry in observed)
