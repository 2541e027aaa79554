"""Moves all pipelines away from the devices that are drained, and says what is left on each and why. Pure.

A drain is part of the device's row: it ends when an operator uncordons the device, and another broker goes on
with it.
"""

from __future__ import annotations

from streamfleet_broker.fleet.devices import Device
from streamfleet_broker.fleet.moving.handovers import Handovers
from streamfleet_broker.fleet.moving.prospects import MOST_SILENT, Prospects
from streamfleet_broker.fleet.pipeline_status import why_pinned
from streamfleet_broker.fleet.records import Drain, PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler, in_order
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.requests import Remaining
from streamfleet_core.protocol.source_reference import is_finite

MAX_MOVES = 4  # of one device at a time, so that no device gets all of its pipelines at once


class Drains:
    """Carries out all drains."""

    def __init__(self, state: State, scheduler: Scheduler, handovers: Handovers, now: float) -> None:
        self._state = state
        self._scheduler = scheduler
        self._handovers = handovers
        for name, device in state.devices.items():
            device.cordon = self._word(name, now)

    def tick(self, now: float) -> None:
        """Begin the next moves of each drain. None begins while most of the fleet is silent."""
        calm = not self._state.network_partition_suspected
        for name, record in self._state.records.devices.items():
            if calm and record.drain is not None and self._state.devices[name].state == "ready":
                self._step(self._state.devices[name], self._is_forced(record.drain, now), now)
            if record.cordoned or self._state.devices[name].cordon:
                self.tell(name, now)

    def tell(self, name: str, now: float) -> None:
        """Tell whether a device takes no pipelines, and how far its drain is."""
        device = self._state.devices[name]
        if (word := self._word(name, now)) != device.cordon:
            device.cordon = word
            self._state.dirty_devices.add(name)

    def remaining(self, name: str, now: float) -> tuple[Remaining, ...]:
        """What is left on a device that is drained. What has ended is not in its way."""
        drain = self._state.records.devices[name].drain
        if drain is None:
            return ()
        records = self._state.records
        going = [_moving(record, record.device) for record in records.taken_from(name)]
        forced = self._is_forced(drain, now)
        prospects = Prospects(self._state, self._scheduler)
        left = [
            self._remaining(record, prospects, forced=forced)
            for record in in_order(records.of_device(name))
            if record.desired_status != "stop" and not self._state.has_ended(record)
        ]
        return (*going, *left)

    def _word(self, name: str, now: float) -> str:
        record = self._state.records.devices[name]
        if record.drain is None:
            return "cordoned" if record.cordoned else ""
        is_done = all(each.state == "staying" for each in self.remaining(name, now))
        return "drained" if is_done else "draining"

    def _is_forced(self, drain: Drain, now: float) -> bool:
        return drain.force_at is not None and self._state.wall(now) >= drain.force_at

    def _step(self, device: Device, forced: bool, now: float) -> None:
        records = self._state.records
        under_way = len(records.leaving[device.name])
        under_way += sum(record.is_arriving for record in records.of_device(device.name))
        for record in in_order(self._scheduler.movable(device)):
            if under_way >= MAX_MOVES:
                return
            if record.standby is not None or record.leaving is not None or self._state.has_finished(record):
                continue
            if plays_file(record) and not forced:
                continue
            target = self._target(record, forced=forced)
            if target is None:
                continue
            at_once = forced and target in self._handovers.failures(record)
            self._handovers.move(record, target, now, at_once=at_once)
            under_way += 1

    def _target(self, record: PipelineRecord, *, forced: bool) -> str | None:
        """The device for a pipeline: none that failed to get ready for it a moment ago, unless it must."""
        if (target := self._scheduler.target(record, refused=self._handovers.failures(record))) is not None:
            return target
        return self._scheduler.target(record) if forced else None

    def _remaining(self, record: PipelineRecord, prospects: Prospects, *, forced: bool) -> Remaining:
        pipeline_id = record.pipeline_id
        if record.leaving is not None:
            return Remaining(pipeline_id, "waiting", f"it is just coming from {record.leaving}")
        if record.standby is not None:
            return _moving(record, record.standby.device)
        if self._state.has_finished(record):
            return Remaining(pipeline_id, "staying", "it has failed")
        if plays_file(record) and not forced:
            return Remaining(pipeline_id, "waiting", "it plays a file to its end")
        if record.pinned:
            return Remaining(pipeline_id, "staying", why_pinned(record))
        if self._state.network_partition_suspected:
            return Remaining(pipeline_id, "waiting", MOST_SILENT)
        if self._target(record, forced=forced) is not None:
            return Remaining(pipeline_id, "waiting", "it is about to move")
        failures = self._handovers.failures(record).values()
        return Remaining(pipeline_id, "waiting", next(iter(failures), "") or prospects.why_nowhere(record))


def _moving(record: PipelineRecord, target: str | None) -> Remaining:
    return Remaining(record.pipeline_id, "moving", f"to {target or 'another device'}")


def plays_file(record: PipelineRecord) -> bool:
    """Whether it ends by itself, and begins again on another device."""
    return all(is_finite(source) for source in record.spec.sources)
