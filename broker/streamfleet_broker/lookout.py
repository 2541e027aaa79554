"""Notices what happens in the fleet, and tells it to who waits for events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamfleet_broker.facts import Facts
from streamfleet_broker.protocol.messages import Error, Reply
from streamfleet_broker.protocol.requests import Events, GetEvents
from streamfleet_broker.roster import Asker
from streamfleet_broker.state import State

MAX_LISTENERS = 64  # who wait for events


@dataclass(frozen=True, slots=True)
class _Listener:
    """An operator who waits for what happens next."""

    request: GetEvents
    deadline: float


class Lookout:
    """Compares how pipelines and devices stand with how they stood."""

    def __init__(self, state: State, facts: Facts) -> None:
        self._state = state
        self._facts = facts
        self._listeners: dict[Asker, _Listener] = {}
        for name in state.devices:
            state.events.assume("device", name, facts.device_standing(name))
        for pipeline_id, record in state.ledger.pipelines.items():
            state.events.assume("pipeline", pipeline_id, facts.standing(record))

    def listen(self, request: GetEvents, asker: Asker, now: float) -> Reply | Error | None:
        """Answer when something has happened, or after `wait_ms`."""
        events = self._events_after(request)
        if events.events or request.wait_ms == 0:
            return Reply(events)
        if len(self._listeners) >= MAX_LISTENERS and asker not in self._listeners:
            return Error("too_many", f"{MAX_LISTENERS} others wait for events already")
        self._listeners[asker] = _Listener(request, now + request.wait_ms / 1000)
        return None

    def give_up(self, now: float) -> None:
        """Answer those whose time is over."""
        for asker, listener in list(self._listeners.items()):
            if now >= listener.deadline:
                self._tell(asker, self._events_after(listener.request))

    def look_at_all(self) -> None:
        """Let nothing stand otherwise unnoticed, whether or not somebody said that it may."""
        state = self._state
        state.stirred_devices = state.devices.keys() | state.events.known("device")
        state.stirred = state.ledger.pipelines.keys() | state.events.known("pipeline")

    def notice(self, now: float) -> None:
        """Make events of what stands otherwise now, and tell them to who waits for some."""
        state = self._state
        state.events.begin_step()
        devices = [self._notice_device(name, now) for name in sorted(state.stirred_devices)]
        pipelines = [self._notice_pipeline(pipeline_id, now) for pipeline_id in sorted(state.stirred)]
        state.stirred, state.stirred_devices = set(), set()
        if not any(devices) and not any(pipelines):
            return
        for asker, listener in list(self._listeners.items()):
            events = self._events_after(listener.request)
            if events.events:
                self._tell(asker, events)

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert len(self._listeners) <= MAX_LISTENERS

    def _notice_device(self, name: str, now: float) -> bool:
        standing = self._facts.device_standing(name) if name in self._state.devices else None
        if not self._state.events.is_new("device", name, standing):
            return False
        reason = "" if standing is None else self._facts.device_reason(name, now)
        self._state.events.add("device", name, standing, reason, self._state.wall(now))
        return True

    def _notice_pipeline(self, pipeline_id: str, now: float) -> bool:
        record = self._state.ledger.pipelines.get(pipeline_id)
        standing = None if record is None else self._facts.standing(record)
        if not self._state.events.is_new("pipeline", pipeline_id, standing):
            return False
        reason = "" if record is None else self._facts.view(record, now).reason
        self._state.events.add("pipeline", pipeline_id, standing, reason, self._state.wall(now))
        return True

    def _events_after(self, request: GetEvents) -> Events:
        if request.epoch == self._state.epoch:
            return self._state.events.after(request.after, self._state.epoch)
        events = self._state.events.after(None, self._state.epoch)
        return replace(events, lost=request.epoch != 0)

    def _tell(self, asker: Asker, events: Events) -> None:
        del self._listeners[asker]
        self._state.answer(asker, events)
