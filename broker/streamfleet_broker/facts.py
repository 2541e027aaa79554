"""How things stand, for operators and for events. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterable

from streamfleet_broker.events import Standing
from streamfleet_broker.movement import Movement
from streamfleet_broker.placement import Candidate
from streamfleet_broker.protocol.requests import DeviceView, FleetView, PipelineView
from streamfleet_broker.records import PipelineRecord
from streamfleet_broker.state import State
from streamfleet_broker.views import Home, is_waiting, spelled, status, view, whereabouts, why_nowhere


class Facts:
    """Answers what is asked of the fleet."""

    def __init__(self, state: State, movement: Movement) -> None:
        self._state = state
        self._movement = movement

    def view(self, record: PipelineRecord, now: float) -> PipelineView:
        """A pipeline as operators see it."""
        (found,) = self.views([record], now)
        return found

    def views(self, records: Iterable[PipelineRecord], now: float) -> tuple[PipelineView, ...]:
        """Several pipelines, for little more than the price of one."""
        known = [(record, self._home(record, now), self._state.observed(record)) for record in records]
        candidates = self._movement.candidates() if any(is_waiting(*entry) for entry in known) else {}
        prospects = _Prospects(self._state, self._movement, candidates)
        return tuple(
            view(*entry, prospects.of(entry[0], now) if is_waiting(*entry) else "") for entry in known
        )

    def standing(self, record: PipelineRecord) -> Standing:
        """What of a pipeline makes an event when it is another."""
        holder, observed = record.holder, self._state.observed(record)
        state = None if holder is None else self._state.devices[holder].state
        restarts = 0 if observed is None else observed.restarts
        return status(record, state, observed), record.device, restarts

    def device_views(self, now: float) -> tuple[DeviceView, ...]:
        """All devices by name, also those that may enrol and have not."""
        views = {
            token.device: DeviceView(token.device, "new") for token in self._state.ledger.tokens.values()
        }
        for name, device in self._state.devices.items():
            records = self._state.ledger.of_device(name)
            views[name] = DeviceView(
                name,
                device.state,
                device.capacity,
                sum(record.want != "stop" and not self._state.has_finished(record) for record in records),
                device.agent,
                device.silent(now),
                self._state.ledger.devices[name].labels,
            )
        return tuple(views[name] for name in sorted(views))

    def device_standing(self, name: str) -> Standing:
        """The same of a device."""
        return self._state.devices[name].state, None, 0

    def device_reason(self, name: str, now: float) -> str:
        """Why a device is not ready, for people."""
        device = self._state.devices[name]
        if device.state in ("syncing", "ready"):
            return ""
        return f"it {whereabouts(Home(name, device.state, device.silent(now)))}"

    def fleet_view(self, now: float) -> FleetView:
        """The broker itself."""
        return FleetView(
            self._state.epoch,
            now - self._state.started,
            sum(device.state == "ready" for device in self._state.devices.values()),
            len(self._state.devices),
            sum(record.want != "stop" for record in self._state.ledger.pipelines.values()),
        )

    def _home(self, record: PipelineRecord, now: float) -> Home | None:
        if record.holder is None:
            return None
        device = self._state.devices[record.holder]
        return Home(device.name, device.state, device.silent(now))


class _Prospects:
    """Where waiting pipelines go, or why nowhere. There may be thousands of them, and a thousand devices."""

    def __init__(self, state: State, movement: Movement, candidates: dict[str, Candidate]) -> None:
        self._state = state
        self._movement = movement
        self._candidates = candidates
        self._roomy = {name: candidate for name, candidate in candidates.items() if candidate.room > 0}
        self._reasons: dict[tuple[str, str | None], str] = {}  # by selector and present device

    def of(self, record: PipelineRecord, now: float) -> str:
        """For people."""
        device = None if record.device is None else self._state.devices[record.device]
        if device is not None and device.state == "lost" and self._state.mass:
            return "nothing is moved while most of the fleet is silent"
        if device is not None and not self._state.is_gone(device, now):
            return "it moves when the lease of that device has ended"
        if (target := self._movement.target(record, self._roomy)) is not None:
            return f"it is about to go to {target}"
        address = (spelled(record.selector), record.device)
        if address not in self._reasons:
            self._reasons[address] = self._why_nowhere(record)
        return self._reasons[address]

    def _why_nowhere(self, record: PipelineRecord) -> str:
        meeting = {name for name in self._state.devices if self._movement.meets(name, record.selector)}
        return why_nowhere(
            (self._candidates[name] for name in self._candidates.keys() & meeting),
            other=record.device is not None,
            selector=record.selector,
            exists=bool(meeting - {record.device}),
        )
