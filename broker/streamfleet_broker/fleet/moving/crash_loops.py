"""Ends the crash loops of pipelines: another device is tried, and after that the pipeline stops. Pure.

running on A ──crashes──▶ running on another device B ──crashes──▶ stopped ──changed or resumed──▶ anywhere

The device of a pipeline counts its crashes, so that a restarted broker neither forgets nor repeats one. That
it crashed too often on a device is part of its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.pipeline_status import why_crashing
from streamfleet_broker.fleet.records import CrashLoop, PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.values import Observed, ObservedState

MAX_CRASHES = 3  # in a row, on one device
HEALTHY = 600.0  # seconds without a crash, after which the crashes on other devices are forgotten
MAX_TRIED = 4  # pipelines at one tick: each may look at all devices


class CrashLoops:
    """Looks at the pipelines that crash."""

    def __init__(self, state: State, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler
        self._last = ""  # the pipeline that was looked at last, so that each has its turn
        # Pipelines that crashed too often on a device, and since when they run without a crash.
        self._well_since: dict[str, float | None] = {
            name: None for name, record in state.records.pipelines.items() if record.crash_loops
        }

    def tick(self, now: float) -> None:
        """Move and stop pipelines that crash, a few at a time."""
        for record, observed in islice(self._crashing(), MAX_TRIED):
            self._last = record.pipeline_id
            self._end_loop(record, observed, now)
        self._forget(now)

    def _crashing(self) -> Iterator[tuple[PipelineRecord, Observed]]:
        """The pipelines that crash in a loop where they are, and may run elsewhere."""
        names = sorted(self._state.crashing, key=lambda name: (name <= self._last, name))
        for pipeline_id in names:
            record = self._state.active_pipeline(pipeline_id)
            observed = None if record is None else self._state.observed(record)
            if record is None or observed is None or observed.crashes == 0:
                self._state.crashing.discard(pipeline_id)
            elif observed.crashes >= MAX_CRASHES and not record.pinned and record.standby is None:
                yield record, observed

    def _end_loop(self, record: PipelineRecord, observed: Observed, now: float) -> None:
        """Stop a pipeline, or move it to a device on which it has not crashed, if one has room."""
        assert record.device is not None
        others = tuple(each for each in record.crash_loops if each.device != record.device)
        here = CrashLoop(record.device, observed.crashes, observed.reason)
        looping = replace(record, crash_loops=(*others, here))
        target = None
        if not looping.is_poison:
            target = self._scheduler.target(record, refused={each.device for each in looping.crash_loops})
            if target is None:
                return
        self._well_since[record.pipeline_id] = None
        self._state.change(self._scheduler.moved(looping, target, now))
        event = "stopped" if target is None else f"from {record.device} to {target}"
        event = f"{event}: {why_crashing(looping.crash_loops)}"
        self._state.after_commit.append(LogEvent(record.pipeline_id, event, severity="error"))

    def _forget(self, now: float) -> None:
        """Forget the crashes on other devices, if a pipeline runs well for long."""
        for pipeline_id, since in list(self._well_since.items()):
            record = self._state.active_pipeline(pipeline_id)
            if record is None or not record.crash_loops:
                del self._well_since[pipeline_id]
                continue
            observed = self._state.observed(record)
            if observed is None or observed.state is not ObservedState.RUNNING or observed.crashes:
                self._well_since[pipeline_id] = None
            elif since is None:
                self._well_since[pipeline_id] = now
            elif now - since >= HEALTHY:
                self._state.records.write(replace(record, crash_loops=()))
