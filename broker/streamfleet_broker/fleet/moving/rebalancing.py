"""Moves running pipelines from devices with much load to others with less, when an operator asks. Pure.

Each move lowers the load of the device that has most, among those where a move helps. Moves begin a few at a
time, and each is looked at again before it begins. A restarted broker ends the moves that are under way, and
begins no more of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from streamfleet_broker.fleet.capacity.placement import Candidate
from streamfleet_broker.fleet.capacity.spare import FleetPool
from streamfleet_broker.fleet.moving.drains import plays_file
from streamfleet_broker.fleet.moving.handovers import Handovers
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler, in_order
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.requests import Move, Rebalance, RebalanceDevices, Utilisation

WORTH = 0.05  # of a device: a move that lowers the higher load of both devices by less is not worth it
MAX_PLANNED = 32  # moves
MAX_MOVES = 4  # at a time
_STUCK = 64  # devices with much load from which nothing can move, after which no others are looked at
_TRIED = 4  # devices for one pipeline


@dataclass(slots=True)
class _Plan:
    """The moves so far, and the devices as they would be then."""

    pool: FleetPool
    moves: list[Move] = field(default_factory=list)
    arrived: dict[str, list[PipelineRecord]] = field(default_factory=dict)  # by device

    @property
    def moved(self) -> frozenset[str]:
        return frozenset(move.pipeline_id for move in self.moves)


class Rebalancing:
    """Plans moves, and carries them out."""

    def __init__(self, state: State, scheduler: Scheduler, handovers: Handovers) -> None:
        self._state = state
        self._scheduler = scheduler
        self._handovers = handovers
        self._next: list[Move] = []  # that have not begun
        self._under_way: set[str] = set()  # pipelines

    def rebalance(self, request: RebalanceDevices, now: float) -> Rebalance:
        """Plan moves, and begin them unless only the plan is wanted."""
        plan = self._plan()
        if not request.dry_run:
            self._next = list(plan.moves)
            self.tick(now)
        before = self._scheduler.pool()
        names = sorted({name for move in plan.moves for name in (move.source, move.target)})
        return Rebalance(
            tuple(plan.moves),
            {name: Utilisation(_rounded(before[name]), _rounded(plan.pool[name])) for name in names},
        )

    def tick(self, now: float) -> None:
        """Begin the next moves."""
        records = self._state.records.pipelines
        self._under_way = {
            name
            for name in self._under_way & records.keys()
            if records[name].is_arriving or records[name].leaving is not None
        }
        while self._next and len(self._under_way) < MAX_MOVES:
            move = self._next.pop(0)
            record = records.get(move.pipeline_id)
            if record is not None and record.device == move.source and self._may_begin(record, move.target):
                self._handovers.move(record, move.target, now)
                self._under_way.add(move.pipeline_id)

    def _may_begin(self, record: PipelineRecord, target: str) -> bool:
        """Whether a planned move is still possible: the fleet may have changed since."""
        pool = self._scheduler.pool()
        return target in pool and self._is_movable(record) and self._fits(record, pool[target])

    # the plan

    def _plan(self) -> _Plan:
        plan = _Plan(self._scheduler.pool().copy())
        for name in {self._state.records.pipelines[each].device for each in self._arriving()}:
            assert name is not None
            self._scheduler.know(self._state.devices[name], plan.pool, self._gone(name, plan))
        loads = {each.device: each.utilisation for each in plan.pool if self._scheduler.is_open(each.device)}
        keeps_spare = plan.pool.spare is not None and plan.pool.spare.lacking() is None
        stuck = set[str]()
        while len(plan.moves) < MAX_PLANNED and len(stuck) < _STUCK and len(loads) > len(stuck):
            source = max(loads.keys() - stuck, key=lambda name: (loads[name], name))
            if loads[source] - min(loads.values()) < WORTH:
                break
            better = self._better(plan, source, keeps_spare=keeps_spare)
            if better is None:
                stuck.add(source)
                continue
            plan = better
            for name in (source, plan.moves[-1].target):
                loads[name] = plan.pool[name].utilisation
        return plan

    def _better(self, plan: _Plan, source: str, *, keeps_spare: bool) -> _Plan | None:
        """The plan with one more move away from a device; None if none is worth it."""
        choices = sorted(self._choices(plan, plan.pool[source]), key=lambda choice: choice[0])
        for _, record, target in choices[:_TRIED]:
            found = self._with_move(plan, record, target)
            if not keeps_spare or (found.pool.spare is not None and found.pool.spare.lacking() is None):
                return found
        return None

    def _choices(
        self, plan: _Plan, source: Candidate
    ) -> Iterator[tuple[tuple[float, int], PipelineRecord, str]]:
        """The moves away from a device that are worth it, each with its rank: the lowest is the best."""
        kinds, moved = set[object](), plan.moved
        records = self._state.records.of_device(source.device)
        for position, record in enumerate(reversed(in_order(records))):  # the lowest priority first
            kind = self._scheduler.kind(record)
            if kind in kinds or record.pipeline_id in moved or not self._is_movable(record):
                continue
            kinds.add(kind)
            left = source.without_pipeline(self._scheduler.demand(record, source)).utilisation
            targets = (each for each in plan.pool if self._fits(record, each, refused=(source.device,)))
            for target in islice(targets, _TRIED):
                arrived = target.with_pipeline(self._scheduler.demand(record, target)).utilisation
                if max(left, arrived) <= source.utilisation - WORTH:
                    yield (max(left, arrived), position), record, target.device

    def _with_move(self, plan: _Plan, record: PipelineRecord, target: str) -> _Plan:
        assert record.device is not None
        pool, arrived = plan.pool.copy(), {name: list(each) for name, each in plan.arrived.items()}
        moves = [*plan.moves, Move(record.pipeline_id, record.device, target)]
        arrived.setdefault(target, []).append(record)
        found = _Plan(pool, moves, arrived)
        self._scheduler.know(self._state.devices[record.device], pool, self._gone(record.device, found))
        for each in arrived.get(record.device, ()):
            self._scheduler.put(replace(each, device=record.device), pool)
        self._scheduler.put(replace(record, device=target), pool)
        return found

    def _arriving(self) -> set[str]:
        """The pipelines for which another device gets ready."""
        known = self._state.records.pipelines
        return {
            name for each in self._state.records.standby.values() for name in each if known[name].is_arriving
        }

    def _gone(self, device: str, plan: _Plan) -> frozenset[str]:
        """The pipelines of a device that will be elsewhere, with the plan or by moves under way."""
        return frozenset(self._state.records.placed[device] & (plan.moved | self._arriving()))

    def _is_movable(self, record: PipelineRecord) -> bool:
        """Whether a pipeline may move without being interrupted for long."""
        return (
            record.desired_status != "stop"
            and not record.pinned
            and record.leaving is None
            and record.standby is None
            and not self._state.has_finished(record)
            and not plays_file(record)
        )

    def _fits(self, record: PipelineRecord, target: Candidate, *, refused: Collection[str] = ()) -> bool:
        """Whether a device takes a pipeline, and has neither failed with it nor to get ready for it."""
        name = target.device
        refused = {*refused, *self._handovers.failures(record), *(each.device for each in record.crash_loops)}
        return (
            name not in refused
            and self._scheduler.is_open(name)
            and self._scheduler.meets(name, record.selector)
            and self._scheduler.demand(record, target).amounts.fits_into(target.free)
            and self._scheduler.fits(record, name)
        )


def _rounded(candidate: Candidate) -> float:
    return round(candidate.utilisation, 4)
