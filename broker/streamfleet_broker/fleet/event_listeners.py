"""Detects changes in the fleet, and replies to operators that wait for events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamfleet_broker.fleet.devices import Asker
from streamfleet_broker.fleet.queries import FleetQueries
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.requests import Events, GetEvents

MAX_LISTENERS = 64  # operators that wait for events


@dataclass(frozen=True, slots=True)
class _Listener:
    """An operator that waits for the next event."""

    request: GetEvents
    deadline: float


class EventListeners:
    """Compares the state of pipelines and devices with their last snapshots."""

    def __init__(self, state: State, queries: FleetQueries) -> None:
        self._state = state
        self._queries = queries
        self._listeners: dict[Asker, _Listener] = {}
        self._postponed: set[str] = set()  # changed pipelines of devices with too many events
        for name in state.devices:
            state.events.assume("device", name, queries.device_snapshot(name))
        for pipeline_id, record in state.records.pipelines.items():
            state.events.assume("pipeline", pipeline_id, queries.snapshot(record))

    def listen(self, request: GetEvents, asker: Asker, now: float) -> Reply | Error | None:
        """Reply once an event has happened, or after `wait_ms`."""
        events = self._events_after(request)
        if events.events or request.wait_ms == 0:
            return Reply(events)
        if len(self._listeners) >= MAX_LISTENERS and asker not in self._listeners:
            return Error("too_many", f"{MAX_LISTENERS} others wait for events already")
        self._listeners[asker] = _Listener(request, now + request.wait_ms / 1000)
        return None

    def expire(self, now: float) -> None:
        """Reply to listeners whose time is over."""
        for asker, listener in list(self._listeners.items()):
            if now >= listener.deadline:
                self._notify(asker, self._events_after(listener.request))

    def retry(self) -> None:
        """Look again at the pipelines whose devices had too many events."""
        self._state.dirty_pipelines |= self._postponed
        self._postponed = set()

    def record_events(self, now: float) -> None:
        """Turn changes into events, and send them to the listeners."""
        state = self._state
        state.events.begin_step()
        if not (state.dirty_devices or state.dirty_pipelines or state.reported):
            return
        devices = [self._record_device(name, now) for name in sorted(state.dirty_devices)]
        pipelines = [self._record_pipeline(pipeline_id, now) for pipeline_id in sorted(state.dirty_pipelines)]
        for report in state.reported:
            state.events.report(report.name, report.reason, state.wall(now))
        is_silent = not (any(devices) or any(pipelines) or state.reported)
        state.dirty_pipelines, state.dirty_devices, state.reported = set(), set(), []
        if is_silent:
            return
        for asker, listener in list(self._listeners.items()):
            events = self._events_after(listener.request)
            if events.events:
                self._notify(asker, events)

    def check(self) -> None:
        """Assert what always holds between two steps."""
        state, queries = self._state, self._queries
        assert len(self._listeners) <= MAX_LISTENERS
        waiting = state.dirty_pipelines | self._postponed
        pipelines = {name: queries.snapshot(record) for name, record in state.records.pipelines.items()}
        devices = {name: queries.device_snapshot(name) for name in state.devices}
        for name in (pipelines.keys() | state.events.known("pipeline")) - waiting:
            assert not state.events.is_new("pipeline", name, pipelines.get(name)), f"no event of {name}"
        for name in (devices.keys() | state.events.known("device")) - state.dirty_devices:
            assert not state.events.is_new("device", name, devices.get(name)), f"no event of {name}"

    def _record_device(self, name: str, now: float) -> bool:
        snapshot = self._queries.device_snapshot(name) if name in self._state.devices else None
        if not self._state.events.is_new("device", name, snapshot):
            return False
        reason = "" if snapshot is None else self._queries.device_reason(name, now)
        self._state.events.add("device", name, snapshot, reason, self._state.wall(now))
        return True

    def _record_pipeline(self, pipeline_id: str, now: float) -> bool:
        record = self._state.records.pipelines.get(pipeline_id)
        snapshot = None if record is None else self._queries.snapshot(record)
        if not self._state.events.is_new("pipeline", pipeline_id, snapshot):
            return False
        holder = None if record is None or record.holder is None else self._state.devices[record.holder]
        if holder is not None and not holder.events.take(1, now):
            self._postponed.add(pipeline_id)
            return False
        reason = "" if record is None else self._queries.view(record, now).reason
        self._state.events.add("pipeline", pipeline_id, snapshot, reason, self._state.wall(now))
        return True

    def _events_after(self, request: GetEvents) -> Events:
        if request.epoch == self._state.epoch:
            return self._state.events.after(request.after, self._state.epoch)
        events = self._state.events.after(None, self._state.epoch)
        return replace(events, lost=request.epoch != 0)

    def _notify(self, asker: Asker, events: Events) -> None:
        del self._listeners[asker]
        self._state.answer(asker, events)
