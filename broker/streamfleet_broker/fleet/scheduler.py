"""Assigns pipelines to devices, and moves them away from devices that are gone. Pure.

unassigned ──room──▶ device ──gone──▶ another device, if the pipeline is movable
device ──another device desired──▶ leaving ──confirmed absent, or gone──▶ the other device
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from streamfleet_broker.fleet.capacity.amounts import Amounts
from streamfleet_broker.fleet.capacity.demand import Demand, demand_of, workload_of
from streamfleet_broker.fleet.capacity.device_pool import DevicePool
from streamfleet_broker.fleet.capacity.placement import Candidate, meets
from streamfleet_broker.fleet.capacity.spare import FleetPool, Movable, SpareRoom
from streamfleet_broker.fleet.devices import Device
from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.records import PipelineRecord, Standby
from streamfleet_broker.fleet.state import MAX_PIPELINES, State
from streamfleet_core.protocol.control_plane import Envelope, encode
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY
from streamfleet_core.protocol.messages import Desired
from streamfleet_core.protocol.requests import DeviceSettings
from streamfleet_core.protocol.values import PRIORITIES, Labels

RESERVED = 0.1  # of the cores of a device: for its agent, its system, and frames that come together
_TRIED = 4  # devices for one pipeline, if the loss of a device must be endured: each is a long calculation
OPTIMISATION = 1024  # bytes of a task of building variants, at most
_TRIALS = 1280  # bytes of trials of models, at most
# The desired state of a device is one message. The margin is for a desired status or a generation that grows.
MAX_DESIRED_SIZE = MAX_CONTROL_BODY - MAX_PIPELINES * 24 - OPTIMISATION - _TRIALS  # bytes of the pipelines


class Scheduler:
    """Assigns pipelines to devices."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pool = FleetPool(SpareRoom() if state.config.spare else None)
        self._supposed: Mapping[str, DeviceSettings] = {}  # in place of what devices are

    def place(self, now: float) -> None:
        """Assign pipelines without a device, and reassign movable ones of devices that are gone."""
        others = [
            each for each in self.waiting(now) if not (each.is_arriving and self._takes_over_alone(each))
        ]
        chosen = [*self.choices(others)]
        if self._pool.spare is not None and len(chosen) < len(others):
            chosen = [*self.choices(others, reserved=True)]
        for record, target in chosen:
            self._state.change(self.moved(record, target, now))
            self._state.after_commit.append(
                LogEvent(record.pipeline_id, f"from {record.device or 'nowhere'} to {target}")
            )

    def waiting(self, now: float) -> list[PipelineRecord]:
        """The pipelines without a device, and movable ones of devices that are gone."""
        waiting = [
            record
            for record in self._state.records.of_device(None)
            if record.desired_status != "stop" and not record.is_poison
        ]
        for device in self._state.absent():
            if self._state.records.placed[device.name] and self._may_move_from(device, now):
                waiting += self.movable(device)
        return waiting

    def choices(
        self, waiting: Iterable[PipelineRecord], pool: FleetPool | None = None, *, reserved: bool = False
    ) -> Iterator[tuple[PipelineRecord, str]]:
        """The device for each pipeline that finds one, as if those before it were there.

        By priority, then by age. `pool`: what is known of the devices, to which they are added one by one;
        None: what is known now, which is not changed. `reserved`: pipelines of devices that are gone
        go where room was kept for them.
        """
        if not (ordered := in_order(waiting)):
            return
        pool = self.pool().copy() if pool is None else pool
        hopeless = set[object]()  # what fits nowhere; so does everything that is equal to it
        for record in ordered:
            kind = self.kind(record)
            if kind in hopeless:
                continue
            target = (self._reserved(record, pool) if reserved else None) or self._choose(record, pool)
            if target is not None:
                yield record, target.device
                self.put(replace(record, device=target.device), pool)
            elif not self._has_room(record, pool):
                hopeless.add(kind)

    def _takes_over_alone(self, record: PipelineRecord) -> bool:
        """Let the standby take over, if it is there: the device is gone."""
        assert record.standby is not None
        if self._state.devices[record.standby.device].state != "ready":
            return False
        taken = replace(self.taken_over(record), leaving=None, standby=None)
        self._state.change(taken)
        event = f"from {record.device} to {taken.device}, which was ready for it"
        self._state.after_commit.append(LogEvent(record.pipeline_id, event))
        return True

    def moved(self, record: PipelineRecord, target: str | None, now: float) -> PipelineRecord:
        """The record of a pipeline that restarts on another device, or waits for one."""
        holder = record.holder
        free = holder is None or holder == target or self._state.is_gone(self._state.devices[holder], now)
        generation = record.generation + 1
        return replace(
            record,
            generation=generation,
            run_generation=generation,
            device=target,
            leaving=None if free else holder,
            standby=None,
            displaced="" if target is not None else record.displaced,
        )

    def taken_over(self, record: PipelineRecord) -> PipelineRecord:
        """The record of a pipeline that its standby takes over. The device that had it pauses it first."""
        standby = record.standby
        assert standby is not None
        assert record.device is not None
        return replace(
            record,
            generation=record.generation + 1,
            run_generation=standby.run_generation,
            device=standby.device,
            leaving=record.device,
            standby=Standby(record.device, record.run_generation),
        )

    def movable(self, device: Device) -> list[PipelineRecord]:
        """The pipelines of a device that may move to another."""
        return [
            record
            for record in self._state.records.of_device(device.name)
            if record.desired_status != "stop" and not record.pinned and not self._state.has_ended(record)
        ]

    def pool(self) -> FleetPool:
        """All devices with what they have and what is left, whether they are ready or not."""
        for name in self._state.records.take_concerned():
            device = self._state.devices.get(name)
            if device is None:
                self._pool.remove(name)
                if self._pool.spare is not None:
                    self._pool.spare.remove(name)
            else:
                self.know(device, self._pool)
        return self._pool

    def know(self, device: Device, pool: FleetPool, without: frozenset[str] = frozenset()) -> None:
        """Put what is known of a device into a pool, as if some pipelines were not there."""
        candidate = self._candidate(device, without)
        pool.put(candidate)
        if pool.spare is None:
            return
        if self.is_open(device.name):
            records = [each for each in self.movable(device) if each.pipeline_id not in without]
            pool.spare.put(candidate, map(self._movable, records))
        else:
            pool.spare.remove(device.name)

    def cordoned(self) -> set[str]:
        """The devices that take no pipelines only because they are cordoned."""
        devices, records = self._state.devices, self._state.records.devices
        return {
            name for name, device in devices.items() if device.state == "ready" and records[name].cordoned
        }

    @contextlib.contextmanager
    def supposing(self, devices: Mapping[str, DeviceSettings]) -> Iterator[FleetPool]:
        """A pool in which devices are so. Within the block, all answers are as if they were."""
        pool = self.pool().copy()
        self._supposed = devices
        try:
            for name in devices.keys() & self._state.devices.keys():
                self.know(self._state.devices[name], pool)
            yield pool
        finally:
            self._supposed = {}

    def pool_without(self, pipelines: frozenset[str]) -> FleetPool:
        """A copy of the pool, as if these pipelines were not there."""
        pool, known = self.pool().copy(), self._state.records.pipelines
        for name in {name for each in pipelines & known.keys() for name in known[each].devices}:
            if name is not None:
                self.know(self._state.devices[name], pool, pipelines)
        return pool

    def put(self, record: PipelineRecord, pool: FleetPool) -> Demand:
        """Add a pipeline to its device in a pool, whether it fits or not, and return what it needs there."""
        assert record.device is not None
        candidate = pool[record.device]
        demand = self.demand(record, candidate)
        candidate = candidate.with_pipeline(demand, _digests(record))
        pool.put(candidate)
        if pool.spare is not None and self.is_open(candidate.device):
            pool.spare.add(candidate, self._moving(record))
        return demand

    def is_open(self, name: str) -> bool:
        """Whether a device takes pipelines now."""
        return self._state.devices[name].state == "ready" and not self.is_cordoned(name)

    def is_cordoned(self, name: str) -> bool:
        """Whether an operator keeps pipelines from a device."""
        return (self._supposed.get(name) or self._state.records.devices[name]).cordoned

    def candidates(self) -> list[Candidate]:
        """The devices that take pipelines, those with most room first."""
        return [candidate for candidate in self.pool() if self.is_open(candidate.device)]

    def demand(self, record: PipelineRecord, candidate: Candidate) -> Demand:
        """What a pipeline needs on a device."""
        workload = workload_of(record.spec, self._state.rates.get(record.pipeline_id))
        return demand_of(workload, candidate.host, self._state.costs)

    def target(self, record: PipelineRecord, *, refused: Collection[str] = ()) -> str | None:
        """The device with most room into which a pipeline fits, with its message of the desired state.

        A pipeline that has no device yet, or was displaced, leaves room for the loss of any one device, if
        that is configured.
        `refused`: devices that are not chosen.
        """
        chosen = self._choose(record, self.pool(), refused)
        return None if chosen is None else chosen.device

    def unspared(self, record: PipelineRecord, pool: FleetPool) -> str | None:
        """The device whose loss keeps a pipeline from being placed, although there is room for it."""
        if not self._needs_spare(record):
            return None
        first = next(self._fitting(record, pool), None)
        return None if first is None else self._lost_after(record, first, pool)

    def _choose(
        self, record: PipelineRecord, pool: FleetPool, refused: Collection[str] = ()
    ) -> Candidate | None:
        found = (each for each in self._fitting(record, pool) if each.device not in refused)
        if self._needs_spare(record):
            tried = islice(found, _TRIED)
            return next((each for each in tried if self._lost_after(record, each, pool) is None), None)
        return next(found, None)

    def _reserved(self, record: PipelineRecord, pool: FleetPool) -> Candidate | None:
        """The device on which room was kept for a pipeline, if it may still go there."""
        if pool.spare is None or record.device is None:
            return None
        name = pool.spare.reserved(record.device, record.pipeline_id)
        if name is None or not self.is_open(name) or not self.may_take(record, name):
            return None
        return pool[name] if self.demand(record, pool[name]).amounts.fits_into(pool[name].free) else None

    def _fitting(self, record: PipelineRecord, pool: DevicePool) -> Iterator[Candidate]:
        """The devices into which a pipeline fits, those with most room first."""
        need = self._need(record)
        for candidate in pool:
            if not (self.is_open(candidate.device) and self.meets(candidate.device, record.selector)):
                continue
            fits = need(candidate).amounts.fits_into(candidate.free)
            if fits and self.fits(record, candidate.device):
                yield candidate

    def _needs_spare(self, record: PipelineRecord) -> bool:
        return self._state.config.spare > 0 and (record.holder is None or record.displaced != "")

    def _lost_after(self, record: PipelineRecord, target: Candidate, pool: FleetPool) -> str | None:
        """The device that may not be lost if a pipeline goes to this one; None if each may be."""
        assert pool.spare is not None
        after = target.with_pipeline(self.demand(record, target), _digests(record))
        return pool.spare.lacking_with(after, self._moving(record))

    def _moving(self, record: PipelineRecord) -> Movable | None:
        """A pipeline as one that moves if its device is lost; None if it never does."""
        return None if record.pinned else self._movable(record)

    def _movable(self, record: PipelineRecord) -> Movable:
        return Movable(
            record.pipeline_id,
            self._need(record),
            lambda candidate: self.meets(candidate.device, record.selector),
            _digests(record),
        )

    def _need(self, record: PipelineRecord) -> Callable[[Candidate], Demand]:
        """What a pipeline needs, by device."""
        workload = workload_of(record.spec, self._state.rates.get(record.pipeline_id))
        return lambda candidate: demand_of(workload, candidate.host, self._state.costs)

    def may_take(self, record: PipelineRecord, name: str) -> bool:
        """Whether the labels of a device and the size of its message allow a pipeline."""
        return self.meets(name, record.selector) and self.fits(record, name)

    def fits(self, record: PipelineRecord, name: str) -> bool:
        """Whether a pipeline fits into the message of the desired state of a device."""
        records = self._state.records
        others = [
            other
            for other in (*records.of_device(name), *records.standing_by(name))
            if other.pipeline_id != record.pipeline_id
        ]
        assignments = (*(other.assignment() for other in others), record.assignment())
        return size(Desired(self._state.revision, assignments)) <= MAX_DESIRED_SIZE

    def meets(self, name: str, selector: Labels) -> bool:
        """Whether a device has all labels that a selector requires."""
        return meets((self._supposed.get(name) or self._state.records.devices[name]).labels, selector)

    def check(self) -> None:
        """Assert that what is known of each device is what follows from its pipelines."""
        known = {candidate.device: candidate for candidate in self.pool()}
        assert known == {name: self._candidate(device) for name, device in self._state.devices.items()}
        if self._pool.spare is not None:
            self._pool.spare.check()
            assert self._pool.spare.devices == {name for name in self._state.devices if self.is_open(name)}

    def _may_move_from(self, device: Device, now: float) -> bool:
        return self._state.is_gone(device, now) and not (
            device.state == "lost" and self._state.network_partition_suspected
        )

    def _candidate(self, device: Device, without: frozenset[str] = frozenset()) -> Candidate:
        """What a device has, and what its pipelines need.

        A finished pipeline takes no capacity but is still part of the desired state.
        """
        records = self._state.records.of_device(device.name)
        present = [record for record in records if not self._state.has_finished(record)]
        capacity = min(device.capacity, MAX_PIPELINES)
        resources = device.resources
        places = capacity if resources.is_limited else MAX_PIPELINES
        candidate = Candidate(
            device.name,
            capacity,
            supply=Amounts(
                engine=1.0 if capacity else 0.0,
                cores=resources.cores * (1 - RESERVED) or math.inf,
                memory=resources.memory or math.inf,
                places=min(places, MAX_PIPELINES - (len(records) - len(present))),
            ),
            board=resources.board,
        )
        arriving = [record for record in self._state.records.standing_by(device.name) if record.is_arriving]
        for record in (each for each in (*present, *arriving) if each.pipeline_id not in without):
            candidate = candidate.with_pipeline(self._need(record)(candidate), _digests(record))
        return candidate

    def kind(self, record: PipelineRecord) -> object:
        """Equal for pipelines that the same devices have room for."""
        workload = workload_of(record.spec, self._state.rates.get(record.pipeline_id))
        return workload, frozenset(record.selector.items()), record.device

    def _has_room(self, record: PipelineRecord, pool: DevicePool) -> bool:
        """Whether a device has room for a pipeline, even if its message of the desired state has not."""
        return any(
            self.is_open(candidate.device)
            and self.meets(candidate.device, record.selector)
            and self.demand(record, candidate).amounts.fits_into(candidate.free)
            for candidate in pool
        )


def _digests(record: PipelineRecord) -> tuple[str, ...]:
    return tuple(model.digest for model in record.spec.models)


def in_order(records: Iterable[PipelineRecord]) -> list[PipelineRecord]:
    """The order in which pipelines are placed and moved: the highest priority first, then the oldest."""
    return sorted(records, key=lambda record: (PRIORITIES.index(record.spec.priority), record.created))


def size(desired: Desired) -> int:
    """The size of the message in bytes."""
    try:
        return len(encode(Envelope(desired))[2])
    except BadMessage:
        return MAX_CONTROL_BODY + 1
