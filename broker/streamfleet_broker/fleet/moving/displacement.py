"""Makes room for pipelines of a higher priority, where they fit nowhere. Pure.

A pipeline that waits for `displace_after` displaces movable ones of lower priorities: they go elsewhere,
or wait for one. As only a higher priority displaces a lower one, no two displace each other in turn.
"""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.fleet.capacity.amounts import Amounts
from streamfleet_broker.fleet.capacity.placement import Candidate
from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler, in_order
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.values import PRIORITIES

MAX_VICTIMS = 4  # that one pipeline displaces


class Displacement:
    """Displaces for one pipeline at each tick."""

    def __init__(self, state: State, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler
        self._since: dict[str, float] = {}  # pipelines that wait, and since when

    def tick(self, now: float) -> None:
        """Make room for the first pipeline that has waited long enough. Call it after all were placed."""
        waiting = {
            record.pipeline_id: record
            for record in in_order(self._scheduler.waiting(now))
            if record.leaving is None and record.spec.priority != PRIORITIES[-1]
        }
        self._since = {name: self._since.get(name, now) for name in waiting}
        after = self._state.config.displace_after
        if after is None or self._state.network_partition_suspected:
            return
        for record in waiting.values():
            if now - self._since[record.pipeline_id] >= after and self._make_room(record, now):
                return

    def _make_room(self, record: PipelineRecord, now: float) -> bool:
        """Displace as few pipelines as possible, if that makes room for one."""
        found = [
            (candidate.device, victims)
            for candidate in self._scheduler.candidates()
            if (victims := self._victims(record, candidate))
        ]
        if not found:
            return False
        name, victims = min(found, key=lambda each: (len(each[1]), each[0]))
        text = f"displaced by {record.pipeline_id} ({record.spec.priority}) on {name}"
        for victim in victims:
            target = self._scheduler.target(replace(victim, displaced=text), refused=[name])
            self._state.change(replace(self._scheduler.moved(victim, target, now), displaced=text))
            self._state.after_commit.append(LogEvent(victim.pipeline_id, text))
        self._state.change(self._scheduler.moved(record, name, now))
        self._state.after_commit.append(LogEvent(record.pipeline_id, f"from nowhere to {name}"))
        return True

    def _victims(self, record: PipelineRecord, candidate: Candidate) -> list[PipelineRecord]:
        """What must go so that a pipeline fits on a device, the lowest priority and the youngest first.

        Empty: nothing helps.
        """
        scheduler, rank = self._scheduler, PRIORITIES.index(record.spec.priority)
        if not scheduler.may_take(record, candidate.device):
            return []
        lower = [
            each
            for each in reversed(in_order(scheduler.movable(self._state.devices[candidate.device])))
            if PRIORITIES.index(each.spec.priority) > rank
            and each.leaving is None
            and each.standby is None
            and not self._state.has_finished(each)
        ]
        free, need = candidate.free, scheduler.demand(record, candidate).amounts
        if self._state.config.spare:  # the room that is left is kept: only theirs is taken
            free = Amounts(memory=free.memory)
        for count, victim in enumerate(lower[:MAX_VICTIMS], 1):
            free = free + scheduler.demand(victim, candidate).amounts
            if need.fits_into(free):
                return lower[:count]
        return []
