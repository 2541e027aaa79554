"""The rules of the protocol, each of which can be taken out of the state machines, to see that it is needed.

The simulation must find a broken promise without any of them. Where two rules guard the same promise, so that
either of them suffices, both are taken out together:

- a device compares the sequence numbers of messages, and the revisions of desired states;
- a broker compares the session, its address, the epoch and the sequence number of a heartbeat.

One rule is not here: a device refuses a generation below the one that it has. Generations only rise in the
store, and `RecordIndex` and the floor see to that. They fall only if a store is put back by hand, and then
removed pipelines are back as well, so no promise holds; the refusal tells the operator of it.
`tests/worker/decisions` has its test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from streamfleet_broker.fleet.device_plane import failure_detector
from streamfleet_broker.fleet.device_plane.confirmations import DeviceConfirmations
from streamfleet_broker.fleet.device_plane.sessions import Sessions
from streamfleet_broker.fleet.effects import Answer
from streamfleet_broker.fleet.record_index import RecordIndex
from streamfleet_broker.fleet.records import FloorRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import FleetConfig, State
from streamfleet_worker.decisions import broker_session
from streamfleet_worker.decisions.broker_session import Session
from streamfleet_worker.decisions.reconciler import Reconcile
from tests.fakes import simulation
from tests.fakes.scripted_fleet import CONFIG
from tests.fakes.simulation import Violation, Worker, simulate

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, how it is taken out, and how soon the simulation must notice."""

    name: str
    seeds: int  # within which it is caught
    patch: Patch | None = None
    faults: tuple[str, ...] = ()  # the ones that show it soonest; empty: a choice of all

    def caught(self) -> Violation | None:
        """The first promise that is broken without the rule. None: none was."""
        with pytest.MonkeyPatch.context() as patching:
            if self.patch is not None:
                self.patch(patching)
            broken = (self._broken_by(seed) for seed in range(self.seeds))
            return next(filter(None, broken), None)

    def _broken_by(self, seed: int) -> Violation | None:
        try:
            simulate(seed, self.faults)
        except Violation as violation:
            return violation
        return None


# of the lease ---------------------------------------------------------------------------------------------


def no_self_stop(patching: pytest.MonkeyPatch) -> None:
    """A device out of contact goes on."""
    patching.setattr(FleetConfig, "self_stop", 1000.0)


def lease_that_ends_early(patching: pytest.MonkeyPatch) -> None:
    """The broker counts a device as gone before it stops itself."""
    patching.setattr(FleetConfig, "self_stop", 1.3 * CONFIG.lease)


def lease_from_receipt(patching: pytest.MonkeyPatch) -> None:
    """A device counts its lease from the receipt of an acknowledgement."""
    renew = Session._renew
    patching.setattr(Session, "_renew", lambda self, sent_at, now: renew(self, now, now))


def fence_that_opens_early(patching: pytest.MonkeyPatch) -> None:
    """A device in contact lets old cameras emit that have not ended yet."""
    patching.setattr(Reconcile, "is_leaving", lambda self: False)


def clock_that_stops(patching: pytest.MonkeyPatch) -> None:
    """The agent's clock stands still while the device sleeps, as time.monotonic() does."""
    slept: dict[Worker, float] = {}
    suspend = simulation.Trouble.suspend

    def suspend_and_note(trouble: simulation.Trouble) -> None:
        now, before = trouble.world.now, dict(trouble.world.workers.items())
        ends = {name: max(now, worker.suspended_until) for name, worker in before.items()}
        suspend(trouble)
        for name, worker in before.items():
            slept[worker] = slept.get(worker, 0.0) + max(0.0, worker.suspended_until - ends[name])

    def awake(worker: Worker) -> float:
        now = worker.world.now
        return now + worker.offset - slept.get(worker, 0.0) + max(0.0, worker.suspended_until - now)

    patching.setattr(simulation.Trouble, "suspend", suspend_and_note)
    patching.setattr(Worker, "boot_time", awake)


def no_device_returns(patching: pytest.MonkeyPatch) -> None:
    """A started broker counts devices as lost that have not spoken to it yet."""
    patching.setattr(State, "_returning", lambda self, name, now: self._away(name))


def old_acknowledgements(patching: pytest.MonkeyPatch) -> None:
    """A device that wakes up takes an acknowledgement that waited for it."""
    advance = Session._advance

    def remembering(self: Session, now: float) -> Any:
        heartbeats = dict(self._heartbeats)
        effects = advance(self, now)
        self._heartbeats.update(heartbeats)
        return effects

    patching.setattr(Session, "_advance", remembering)


def fence_that_sleeps(patching: pytest.MonkeyPatch) -> None:
    """A device that wakes up goes on at once."""
    patching.setattr(broker_session, "WAKE_GAP", 1000.0)


def lease_without_desired_state(patching: pytest.MonkeyPatch) -> None:
    """A device trusts an acknowledgement before it knows what it should run."""
    acknowledged = Session._acknowledged

    def trusting(self: Session, ack: Any, now: float) -> Any:
        synced, self._synced = self._synced, True
        effects = acknowledged(self, ack, now)
        self._synced = synced
        return effects

    patching.setattr(Session, "_acknowledged", trusting)


# of order -------------------------------------------------------------------------------------------------


def any_epoch_at_the_device(patching: pytest.MonkeyPatch) -> None:
    """A device forgets which brokers it saw."""
    receive, say_hello = Session.receive, Session._say_hello

    def forgetful(self: Session, envelope: Any, now: float) -> Any:
        self._seen_epoch = 0
        self._applied = (min(self._applied[0], envelope.epoch), 0)
        self._subscribers = (0, 0)
        return receive(self, envelope, now)

    def hello(self: Session, now: float) -> Any:
        self._seen_epoch = 0
        return say_hello(self, now)

    patching.setattr(Session, "receive", forgetful)
    patching.setattr(Session, "_say_hello", hello)
    patching.setattr(Session, "check", lambda self: None)


def any_order_at_the_device(patching: pytest.MonkeyPatch) -> None:
    """A device compares neither the numbers of messages nor the revisions of desired states."""
    receive, handle = Session.receive, Session._handle

    def receiving(self: Session, envelope: Any, now: float) -> Any:
        if envelope.session == self._session:
            self._heard_seq = envelope.seq - 1
        return receive(self, envelope, now)

    def handling(self: Session, message: object, now: float) -> Any:
        self._applied = (self._applied[0], -1)
        return handle(self, message, now)

    patching.setattr(Session, "receive", receiving)
    patching.setattr(Session, "_handle", handling)


def any_order_at_the_broker(patching: pytest.MonkeyPatch) -> None:
    """A broker takes heartbeats of any session, epoch and number."""
    patching.setattr(Sessions, "_session_of", lambda self, peer, device, envelope: device.session)


def any_revision_confirms(patching: pytest.MonkeyPatch) -> None:
    """What a device does not run it has given up, whatever it knew when it said so."""
    released = DeviceConfirmations._has_released

    def hasty(self: DeviceConfirmations, device: Any, session: Any, record: Any) -> bool:
        return released(self, device, replace(session, applied_revision=2**60), record)

    patching.setattr(DeviceConfirmations, "_has_released", hasty)


# of moves -------------------------------------------------------------------------------------------------


def move_without_confirmation(patching: pytest.MonkeyPatch) -> None:
    """The next device is told before the last one has given a pipeline up."""
    moved = Scheduler.moved
    patching.setattr(
        Scheduler,
        "moved",
        lambda self, record, target, now: replace(moved(self, record, target, now), leaving=None),
    )


def no_breaker(patching: pytest.MonkeyPatch) -> None:
    """Pipelines move although most of the fleet fell silent at once."""
    patching.setattr(failure_detector, "PARTITION_MINIMUM", 1000)


def no_floor(patching: pytest.MonkeyPatch) -> None:
    """The generations of an id that is used again start from the beginning."""
    write = RecordIndex.write

    def forget_floors(self: RecordIndex, record: Any) -> None:
        if not isinstance(record, FloorRecord):
            write(self, record)

    patching.setattr(RecordIndex, "write", forget_floors)


# of the stores --------------------------------------------------------------------------------------------


def answer_before_commit(patching: pytest.MonkeyPatch) -> None:
    """An operator is told of a change before it is durable."""
    finish = State.finish

    def hasty(self: State) -> Any:
        effects = finish(self)
        return sorted(effects, key=lambda each: 0 if isinstance(each, Answer) else 1)

    patching.setattr(State, "finish", hasty)


def no_undo(patching: pytest.MonkeyPatch) -> None:
    """What the store refused goes on in the memory of the broker."""
    patching.setattr(State, "undo", lambda self, save: None)


RULES = (
    Rule("a worker out of contact stops itself", 5, no_self_stop, faults=("cut",)),
    Rule("the lease of the broker is the longer one", 5, lease_that_ends_early, faults=("cut",)),
    Rule("the lease counts from sending", 5, lease_from_receipt, faults=("congest",)),
    Rule("the fence waits for the end of old cameras", 15, fence_that_opens_early, faults=("freeze",)),
    Rule("the clock of the lease counts sleep", 5, clock_that_stops, faults=("suspend",)),
    Rule("a device that wakes up waits for an acknowledgement", 5, fence_that_sleeps, faults=("doze",)),
    Rule("a device that wakes up forgets its heartbeats", 20, old_acknowledgements, faults=("doze",)),
    Rule("the lease waits for the desired state", 15, lease_without_desired_state, faults=("clog",)),
    Rule("a started broker waits for its devices", 5, no_device_returns, faults=("kill_broker",)),
    Rule("a device obeys the newest epoch", 5, any_epoch_at_the_device, faults=("replace_broker",)),
    Rule("a device keeps the order", 5, any_order_at_the_device, faults=("congest", "cut_one_way")),
    Rule("a broker keeps the order", 8, any_order_at_the_broker, faults=("repeat_reports", "kill_broker")),
    Rule("a confirmation is of this revision", 12, any_revision_confirms, faults=("delay_reports",)),
    Rule("a move waits for a confirmation", 5, move_without_confirmation, faults=("freeze",)),
    Rule("nothing moves while most are silent", 5, no_breaker, faults=("cut_most",)),
    Rule("generations of a reused id rise", 5, no_floor, faults=("freeze",)),
    Rule("a change is durable before its answer", 3, answer_before_commit, faults=("break_store",)),
    Rule("a refused write is undone", 3, no_undo, faults=("break_store",)),
)
