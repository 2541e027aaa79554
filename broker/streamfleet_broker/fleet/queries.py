"""Read-only queries over the fleet state, for operators and events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import islice

from streamfleet_broker.fleet.devices import Device
from streamfleet_broker.fleet.event_log import Snapshot
from streamfleet_broker.fleet.moving.drains import Drains
from streamfleet_broker.fleet.moving.prospects import Prospects
from streamfleet_broker.fleet.pipeline_status import (
    Holder,
    is_waiting,
    status,
    view,
    whereabouts,
)
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.requests import (
    DeviceFigures,
    DeviceView,
    FleetFigures,
    FleetView,
    ListDevices,
    ListPipelines,
    PipelineFigures,
    PipelineView,
)


class FleetQueries:
    """Read-only queries over the fleet state."""

    def __init__(self, state: State, scheduler: Scheduler, drains: Drains) -> None:
        self._state = state
        self._scheduler = scheduler
        self._drains = drains

    def view(self, record: PipelineRecord, now: float) -> PipelineView:
        """A pipeline as operators see it."""
        (found,) = self.views([record], now)
        return found

    def views(self, records: Iterable[PipelineRecord], now: float) -> tuple[PipelineView, ...]:
        """Several pipelines, at little more than the cost of one."""
        known = [(record, self._holder_of(record, now), self._state.observed(record)) for record in records]
        prospects = Prospects(self._state, self._scheduler)
        return tuple(
            view(*entry, prospects.of(entry[0], now) if is_waiting(*entry) else "") for entry in known
        )

    def snapshot(self, record: PipelineRecord) -> Snapshot:
        """The state of a pipeline whose change makes an event."""
        holder, observed = record.holder, self._state.observed(record)
        state = None if holder is None else self._state.devices[holder].state
        restarts = 0 if observed is None else observed.restarts
        return status(record, state, observed), record.device, restarts, ""

    def page(self, request: ListPipelines, now: float) -> tuple[PipelineView, ...]:
        """The pipelines that are not being stopped, oldest first."""
        younger = self._state.records.created_after(request.after)
        present = (record for record in younger if record.desired_status != "stop")
        return self.views(list(islice(present, request.limit or None)), now)

    def device_page(self, request: ListDevices, now: float) -> tuple[DeviceView, ...]:
        """The devices by name, including those that have not enrolled yet."""
        expected = {token.device for token in self._state.records.tokens.values()}
        names = sorted(self._state.devices.keys() | expected)
        first = 0 if request.after is None else bisect_right(names, request.after)
        views = (self.device_view(name, now) for name in names[first:][: request.limit or None])
        return tuple(view for view in views if view is not None)

    def device_view(self, name: str, now: float) -> DeviceView | None:
        """One device, also one that has not enrolled yet; None if there is none of this name."""
        if (device := self._state.devices.get(name)) is not None:
            return self._device_view(device, now)
        return DeviceView(device=name, state="new") if self._state.records.tokens_of(name) else None

    def device_snapshot(self, name: str) -> Snapshot:
        """The state of a device whose change makes an event."""
        return self._state.devices[name].state, None, 0, self._device_note(name)

    def device_reason(self, name: str, now: float) -> str:
        """Explain why a device is not ready, or what is wrong with it although it is."""
        device = self._state.devices[name]
        note = self._device_note(name)
        if device.state in ("syncing", "ready"):
            return note
        return "; ".join(filter(None, (f"it {whereabouts(_holder_of(device, now))}", note)))

    def _device_note(self, name: str) -> str:
        """What is wrong with a device although it is ready, and whether it takes no pipelines."""
        device = self._state.devices[name]
        trouble = device.trouble if device.state == "ready" else ""
        return "; ".join(filter(None, (trouble, device.cordon)))

    def fleet_view(self, now: float) -> FleetView:
        """The broker itself."""
        return FleetView(
            epoch=self._state.epoch,
            uptime=now - self._state.started,
            devices_ready=sum(device.state == "ready" for device in self._state.devices.values()),
            devices=len(self._state.devices),
            pipelines=sum(
                record.desired_status != "stop" for record in self._state.records.pipelines.values()
            ),
        )

    def figures(self, now: float) -> FleetFigures:
        """What metrics tell of the whole fleet, at a tenth of the cost of its views."""
        state = self._state
        records = [each for each in state.records.created_after(0) if each.desired_status != "stop"]
        expected = {token.device for token in state.records.tokens.values()}
        return FleetFigures(
            self.fleet_view(now),
            tuple(map(self._pipeline_figures, records)),
            tuple(self._device_figures(name, now) for name in sorted(state.devices.keys() | expected)),
        )

    def _pipeline_figures(self, record: PipelineRecord) -> PipelineFigures:
        holder, observed = record.holder, self._state.observed(record)
        word = status(record, None if holder is None else self._state.devices[holder].state, observed)
        restarts = 0 if observed is None else observed.restarts
        return PipelineFigures(record.pipeline_id, word, record.device, record.spec.model.id, restarts)

    def _device_figures(self, name: str, now: float) -> DeviceFigures:
        device = self._state.devices.get(name)
        if device is None:
            return DeviceFigures(name, "new", 0, 0, None, {})
        count = self._count_running(device)
        silent = device.silent(now)
        return DeviceFigures(name, device.state, device.capacity, count, silent, dict(device.dropped))

    def _count_running(self, device: Device) -> int:
        """The pipelines of a device that are to run or to be paused, and have not finished."""
        known, ids = self._state.records.pipelines, self._state.records.placed[device.name]
        records = [known[pipeline_id] for pipeline_id in ids]
        return sum(
            record.desired_status != "stop" and not self._state.has_finished(record) for record in records
        )

    def _device_view(self, device: Device, now: float) -> DeviceView:
        known = self._state.records.devices[device.name]
        return DeviceView(
            device=device.name,
            state=device.state,
            capacity=device.capacity,
            pipelines=self._count_running(device),
            agent=device.agent,
            silent=device.silent(now),
            labels=known.labels,
            dropped=dict(device.dropped),
            drills=device.drills,
            cordoned=known.cordoned,
            draining=known.drain is not None,
            remaining=self._drains.remaining(device.name, now),
            load=self._scheduler.pool()[device.name].load,
        )

    def _holder_of(self, record: PipelineRecord, now: float) -> Holder | None:
        if record.holder is None:
            return None
        return _holder_of(self._state.devices[record.holder], now)


def _holder_of(device: Device, now: float) -> Holder:
    return Holder(device.name, device.state, device.silent(now), device.why_quarantined)
