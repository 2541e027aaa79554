"""Says where pipelines would go, and why some would go nowhere. Changes nothing."""

from __future__ import annotations

from streamfleet_broker.fleet.capacity.demand import Demand
from streamfleet_broker.fleet.moving.prospects import Prospects
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.costs import Need
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.requests import DesiredPipeline, Plan, Planned, PlanPipelines


class Planner:
    """Places pipelines on a copy of what is known of the devices."""

    def __init__(self, state: State, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler

    def plan(self, request: PlanPipelines) -> Reply | Error:
        """Where these pipelines would go. Those that exist keep their device, if it may still run them."""
        records = {
            each.pipeline_id: self._record(each, number) for number, each in enumerate(request.pipelines, 1)
        }
        for record in records.values():
            if record.device is not None and record.device not in self._state.devices:
                return self._state.no_device(record.device)
        pool = self._scheduler.pool_without(frozenset(records))
        planned = dict[str, Planned]()
        for name, record in records.items():
            if record.device is not None:
                planned[name] = _planned(name, record.device, self._scheduler.put(record, pool))
        waiting = [record for record in records.values() if record.device is None]
        for record, device in self._scheduler.choices(waiting, pool):
            demand = self._scheduler.demand(record, pool[device])
            planned[record.pipeline_id] = _planned(record.pipeline_id, device, demand)
        for name in records.keys() - planned.keys():
            reason = Prospects(self._state, self._scheduler).why_nowhere(records[name], pool)
            planned[name] = Planned(pipeline_id=name, reason=reason)
        loads = {each.device: each.load for each in sorted(pool, key=lambda each: each.device)}
        return Reply(Plan(tuple(planned[name] for name in records), loads))

    def _record(self, desired: DesiredPipeline, number: int) -> PipelineRecord:
        known = self._state.active_pipeline(desired.pipeline_id)
        device = desired.device
        if device is None and known is not None and known.device is not None:
            keeps = self._scheduler.meets(known.device, desired.selector)
            device = known.device if keeps else None
        return PipelineRecord(
            pipeline_id=desired.pipeline_id,
            generation=1,
            run_generation=1,
            desired_status=desired.desired_status,
            spec=desired.spec,
            requested=desired.device,
            device=device,
            created=number,
            selector=desired.selector,
            requested_on_disconnect=desired.on_disconnect,
        )


def _planned(name: str, device: str, demand: Demand) -> Planned:
    amounts = demand.amounts
    return Planned(
        pipeline_id=name,
        device=device,
        need=Need(
            engine=round(amounts.engine, 4),
            cores=round(amounts.cores, 4),
            memory=int(amounts.memory),
            is_measured=demand.is_measured,
        ),
    )
