"""The rules of the protocol, each of which can be taken out of the state machines, to see that it is needed.

The simulation must find a broken promise without any of them. Some rules are not here, because something
else guards the same promise, and 40 seeds without one of them broke nothing:

- the sessions, epochs and sequence numbers that a broker compares, the revision that a confirmation must have
  reached, and the revisions that a device compares: a connection keeps the order, and delivers nothing after
  its end;
- the generations that a device refuses: they only rise, unless a store was put back by hand;
- the heartbeats that a device forgets when it wakes up: the broker has ended the session, or the lease;
- the lease that waits for the desired state, which follows the welcome at once.

They stay: what guards in their place is another process, or the way in which libzmq closes a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from streamfleet_broker.fleet.device_plane import failure_detector
from streamfleet_broker.fleet.effects import Answer
from streamfleet_broker.fleet.record_index import RecordIndex
from streamfleet_broker.fleet.records import FloorRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import FleetConfig, State
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
    Rule("a started broker waits for its devices", 5, no_device_returns, faults=("kill_broker",)),
    Rule("a device obeys the newest epoch", 5, any_epoch_at_the_device, faults=("replace_broker",)),
    Rule("a move waits for a confirmation", 5, move_without_confirmation, faults=("freeze",)),
    Rule("nothing moves while most are silent", 5, no_breaker, faults=("cut_most",)),
    Rule("generations of a reused id rise", 5, no_floor, faults=("freeze",)),
    Rule("a change is durable before its answer", 3, answer_before_commit, faults=("break_store",)),
    Rule("a refused write is undone", 3, no_undo, faults=("break_store",)),
)
