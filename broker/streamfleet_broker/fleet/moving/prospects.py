"""Explains where waiting pipelines go, or why nowhere. Scales to thousands of pipelines and devices. Pure."""

from __future__ import annotations

from streamfleet_broker.fleet.capacity.shortage import shortage
from streamfleet_broker.fleet.capacity.spare import FleetPool
from streamfleet_broker.fleet.pipeline_status import why_nowhere
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State

MOST_SILENT = "nothing is moved while most of the fleet is silent"


class Prospects:
    """The explanations for several pipelines at one time."""

    def __init__(self, state: State, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler
        self._reasons: dict[object, str] = {}  # by what the scheduler considers equal

    def of(self, record: PipelineRecord, now: float) -> str:
        """The explanation for one pipeline that runs nowhere."""
        device = None if record.device is None else self._state.devices[record.device]
        if device is not None and device.state == "lost" and self._state.network_partition_suspected:
            return MOST_SILENT
        if device is not None and not self._state.is_gone(device, now):
            return "it moves when the lease of that device has ended"
        kind = self._scheduler.kind(record)
        if kind not in self._reasons:
            target = self._scheduler.target(record)
            if target is not None:
                return f"it is about to go to {target}"
            self._reasons[kind] = self.why_nowhere(record)
        return self._reasons[kind]

    def why_nowhere(self, record: PipelineRecord, pool: FleetPool | None = None) -> str:
        """Why no device takes a pipeline, apart from the one that it has. `pool`: None for what is known."""
        scheduler = self._scheduler
        pool = scheduler.pool() if pool is None else pool
        meeting = {name for name in self._state.devices if scheduler.meets(name, record.selector)}
        candidates = [each for each in pool if each.device in meeting and scheduler.is_open(each.device)]
        if candidates and not record.pinned and (lost := scheduler.unspared(record, pool)) is not None:
            return f"unschedulable: if {lost} were lost, its pipelines would not fit on the others (spare)"
        if any(scheduler.demand(record, each).is_measured for each in candidates):
            return shortage(candidates, lambda each: scheduler.demand(record, each))
        return why_nowhere(
            candidates,
            other=record.device is not None,
            selector=record.selector,
            exists=bool(meeting - {record.device}),
            cordoned=scheduler.cordoned() & meeting - {record.device},
        )
