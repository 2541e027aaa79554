"""The fleet: devices, desired pipelines, and where they run. Pure: takes messages and `now`, returns effects.

    Operators ──▶ Pipelines ──▶ Scheduler ──▶ State ──▶ effects
    Sessions ──▶ Enrolment; DeviceConfirmations ──▶ Scheduler, PendingReplies
    FailureDetector ──▶ State
    EventListeners ◀── FleetQueries ◀── State

A pipeline is one record, whose `generation` rises with every change of device, spec or desired status.
A device is sent its complete desired state, again and again until it reports that it has applied it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamfleet_broker.fleet.device_plane.confirmations import DeviceConfirmations
from streamfleet_broker.fleet.device_plane.enrolment import Enrolment
from streamfleet_broker.fleet.device_plane.failure_detector import FailureDetector
from streamfleet_broker.fleet.device_plane.sessions import Sessions
from streamfleet_broker.fleet.devices import DevicePeer, OperatorPeer
from streamfleet_broker.fleet.effects import Answer, Effect, Save, Send, SetAllowedKeys
from streamfleet_broker.fleet.event_listeners import EventListeners
from streamfleet_broker.fleet.moving.crash_loops import CrashLoops
from streamfleet_broker.fleet.moving.displacement import Displacement
from streamfleet_broker.fleet.moving.drains import Drains
from streamfleet_broker.fleet.moving.handovers import Handovers
from streamfleet_broker.fleet.moving.rebalancing import Rebalancing
from streamfleet_broker.fleet.moving.rollouts import Rollouts
from streamfleet_broker.fleet.operator_requests import Operators
from streamfleet_broker.fleet.optimisations import Optimisations
from streamfleet_broker.fleet.pending_replies import PendingReplies
from streamfleet_broker.fleet.pipelines import Pipelines
from streamfleet_broker.fleet.queries import FleetQueries
from streamfleet_broker.fleet.random_source import RandomSource
from streamfleet_broker.fleet.records import Record
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import FleetConfig, State
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.messages import Error
from streamfleet_core.protocol.requests import Plane


class Fleet:
    """All decisions of the broker.

    Each entry point returns the effects that the server must perform, in their order.

    Args:
        epoch: larger than that of every broker before this one, as far as the store knows.
        records: all rows of the store.
        now: a monotonic clock in seconds, the same for all calls.
        unix_time: the wall clock at `now`. It is read once, so that a jump ends no token.
    """

    def __init__(
        self,
        config: FleetConfig,
        epoch: int,
        records: Iterable[Record],
        random_source: RandomSource,
        *,
        now: float,
        unix_time: float,
    ) -> None:
        self._now = now  # of the last step that had one
        self._state = State(config, epoch, records, random_source, now=now, unix_time=unix_time)
        self._scheduler = Scheduler(self._state)
        self._handovers = Handovers(self._state, self._scheduler)
        self._crash_loops = CrashLoops(self._state, self._scheduler)
        self._displacement = Displacement(self._state, self._scheduler)
        self._rebalancing = Rebalancing(self._state, self._scheduler, self._handovers)
        self._drains = Drains(self._state, self._scheduler, self._handovers, now)
        queries = FleetQueries(self._state, self._scheduler, self._drains)
        self._pending_replies = PendingReplies(self._state, queries)
        self._event_listeners = EventListeners(self._state, queries)
        self._confirmations = DeviceConfirmations(self._state, self._scheduler, self._pending_replies)
        self._enrolment = Enrolment(self._state)
        self._sessions = Sessions(self._state, self._scheduler, self._enrolment, self._confirmations, now=now)
        self._failure_detector = FailureDetector(self._state, now)
        self._pipelines = Pipelines(
            self._state, self._scheduler, queries, self._pending_replies, self._confirmations
        )
        self._optimisations = Optimisations(self._state)
        self._rollouts = Rollouts(self._state, self._pipelines.use_model)
        self._operators = Operators(
            self._state,
            self._scheduler,
            queries,
            self._confirmations,
            self._pipelines,
            self._event_listeners,
            self._optimisations,
            handovers=self._handovers,
            drains=self._drains,
            rebalancing=self._rebalancing,
            rollouts=self._rollouts,
        )

    @property
    def epoch(self) -> int:
        """The epoch of this broker."""
        return self._state.epoch

    def start(self) -> list[Effect]:
        """Return the first effects. Call it before anything else."""
        self._state.after_commit += [
            SetAllowedKeys("operators", frozenset({self._state.config.operator_key})),
            *(self._state.allowed_keys(domain) for domain in ("devices", "relay-in", "relay-out")),
        ]
        return self._finish(self._now)

    def receive(self, peer: DevicePeer | OperatorPeer, envelope: Envelope, now: float) -> list[Effect]:
        """Handle a message."""
        if isinstance(peer, OperatorPeer):
            self._operators.receive(peer, envelope, now)
        else:
            self._sessions.receive(peer, envelope, now)
        return self._finish(now)

    def receive_together(self, messages: Sequence[tuple[OperatorPeer, Envelope]], now: float) -> list[Effect]:
        """Handle messages of operators in one step, and so in one write: all are durable, or none."""
        for peer, envelope in messages:
            self._operators.receive(peer, envelope, now)
        return self._finish(now)

    def receive_malformed(
        self, peer: DevicePeer | OperatorPeer, request_id: bytes, error: BadMessage
    ) -> list[Effect]:
        """Refuse bytes that are not a message."""
        if isinstance(peer, OperatorPeer):
            answer = Answer(peer.routing_id, request_id, Error("bad_message", str(error)))
            self._state.after_commit.append(answer)
        else:
            self._sessions.receive_malformed(peer, error)
        return self._finish(self._now)

    def overspent(self, key: str, plane: Plane, count: int, now: float) -> list[Effect]:
        """Handle dropped messages of a key that exceeds its budget on a plane."""
        self._sessions.overspent(key, plane, count, now)
        return self._finish(now)

    def tick(self, now: float) -> list[Effect]:
        """Let time pass. Call it twice a second."""
        self._sessions.tick(now)
        self._enrolment.expire_tokens(now)
        self._failure_detector.tick(now)
        self._optimisations.tick(now)
        self._rollouts.tick(now)
        self._confirmations.release_gone(now)
        self._handovers.tick(now)
        self._drains.tick(now)
        self._rebalancing.tick(now)
        self._crash_loops.tick(now)
        self._scheduler.place(now)
        self._displacement.tick(now)
        self._pending_replies.expire(now)
        self._event_listeners.expire(now)
        self._event_listeners.retry()
        return self._finish(now)

    def envelope(self, send: Send) -> Envelope | None:
        """Wrap a message to a device; None if its session has ended."""
        return self._sessions.envelope(send)

    def sent(self, send: Send) -> None:
        """Note that a message was sent."""
        self._sessions.sent(send)

    def unsent(self, send: Send, *, gone: bool) -> None:
        """Handle a message that was not sent, because the peer is gone or its queue is full."""
        self._sessions.unsent(send, gone=gone)

    def commit_failed(self, save: Save, dropped: Iterable[Effect]) -> list[Effect]:
        """Undo a write that the store rejected. `dropped` are the effects that will not be performed."""
        self._state.undo(save)
        asked = [(e.routing_id, e.request_id) for e in dropped if isinstance(e, Answer)]
        asked += [(asker.routing_id, asker.request_id) for asker in self._pending_replies.undo()]
        return [Answer(routing_id, request_id, _STORE_DOWN) for routing_id, request_id in asked]

    def epoch_committed(self, epoch: int) -> None:
        """Use a new, durable epoch. Sessions of the old one restart at their next heartbeat."""
        assert epoch > self._state.epoch
        self._state.epoch = epoch
        self._sessions.epoch_committed(self._now)

    def check(self) -> None:
        """Assert what always holds between two steps."""
        self._state.check()
        self._scheduler.check()
        self._pipelines.check()
        self._pending_replies.check()
        self._event_listeners.check()

    def _finish(self, now: float) -> list[Effect]:
        self._now = now
        self._event_listeners.record_events(now)
        return self._state.finish()


_STORE_DOWN = Error("store_down", "the broker's store does not take writes; nothing was changed")
