"""Moves running pipelines so that the new device is ready before the old one stops. Pure.

running on A ──begin──▶ running on A, B gets ready ──B is ready──▶ A pauses ──confirmed──▶ running on B
                             └──B fails, is gone, or takes too long──▶ running on A

Both devices have the pipeline in their desired state; at most one of them may emit it. While B gets ready, it
has it paused. Before B may run it, A has confirmed that it is paused, or has lost its lease. All of this is
in the pipeline's row, so that another broker goes on with it.
"""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.records import PipelineRecord, Standby
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.values import Observed, ObservedState

PREPARE_TIMEOUT = 90.0  # seconds for a device to get ready: it may have to fetch and load the model
BLIND_AFTER = 5.0  # seconds after which a device of an older version, which does not say so, counts as ready
PAUSE_TIMEOUT = 3.0  # seconds for the other device to pause, before the pipeline is taken from it
RETRY_AFTER = 60.0  # seconds until a device that did not get ready is tried again
# What has a gap to avoid: everything else moves without a standby.
_EMITTING = (ObservedState.RUNNING, ObservedState.PAUSED)


class Handovers:
    """Carries out all moves that are under way."""

    def __init__(self, state: State, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler
        self._began: dict[str, tuple[tuple[int, str | None], float]] = {}  # pipeline → its step, and when
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}  # pipeline and device → when, and why

    def move(self, record: PipelineRecord, target: str, now: float, *, at_once: bool = False) -> None:
        """Move a pipeline: with a standby if it emits, without one `at_once`."""
        observed = self._state.observed(record)
        emits = observed is not None and observed.state in _EMITTING
        if at_once or not emits:
            self._state.change(self._scheduler.moved(record, target, now))
            event = f"from {record.device} to {target}"
        else:
            generation = record.generation + 1
            standby = Standby(target, generation)
            self._state.change(replace(record, generation=generation, standby=standby))
            event = f"{target} gets ready for it"
        self._state.after_commit.append(LogEvent(record.pipeline_id, event))

    def cancel(self, record: PipelineRecord) -> None:
        """Leave a pipeline where it runs, if no other device has taken it over yet."""
        if record.is_arriving:
            self._state.change(replace(record, standby=None))

    def failures(self, record: PipelineRecord) -> dict[str, str]:
        """The devices that did not get ready for a pipeline a moment ago, and why."""
        of = record.pipeline_id
        return {name: why for (pipeline_id, name), (_, why) in self._failed.items() if pipeline_id == of}

    def tick(self, now: float) -> None:
        """Take the next step of each move."""
        self._failed = {of: each for of, each in self._failed.items() if now - each[0] < RETRY_AFTER}
        moving = {record.pipeline_id: record for record in self._moving()}
        self._began = {
            pipeline_id: self._began.get(pipeline_id, (_step(record), now))
            for pipeline_id, record in moving.items()
        }
        for pipeline_id, record in moving.items():
            step, began = self._began[pipeline_id]
            if step != _step(record):
                began = now
                self._began[pipeline_id] = (_step(record), now)
            if record.is_arriving:
                self._prepare(record, now, now - began)
            elif now - began >= PAUSE_TIMEOUT:
                self._state.change(replace(record, standby=None, generation=record.generation + 1))

    def _moving(self) -> list[PipelineRecord]:
        records = self._state.records
        names = [name for name in self._state.devices if records.standby.get(name)]
        return [record for name in names for record in records.standing_by(name)]

    def _prepare(self, record: PipelineRecord, now: float, waited: float) -> None:
        assert record.standby is not None
        assert record.device is not None
        name = record.standby.device
        device, holder = self._state.devices[name], self._state.devices[record.device]
        observed = device.observed.get(record.pipeline_id)
        if observed is not None and observed.generation < record.standby.run_generation:
            observed = None
        if (why := self._obstacle(record, name, observed, now, waited)) is not None:
            self._failed[record.pipeline_id, name] = now, why
            self._state.change(replace(record, standby=None))
            self._state.after_commit.append(LogEvent(record.pipeline_id, f"stays on {record.device}: {why}"))
        elif holder.state == device.state == "ready" and _is_ready(observed, waited):
            self._state.change(self._scheduler.taken_over(record))
            self._state.after_commit.append(LogEvent(record.pipeline_id, f"from {record.device} to {name}"))

    def _obstacle(
        self, record: PipelineRecord, name: str, observed: Observed | None, now: float, waited: float
    ) -> str | None:
        """Why a device cannot take a pipeline over; None if it can, or will be able to."""
        if self._state.is_gone(self._state.devices[name], now):
            return f"{name} is gone"
        if self._state.records.devices[name].cordoned:
            return f"{name} is cordoned"
        if not self._scheduler.meets(name, record.selector):
            return f"{name} has lost the labels that it needs"
        if self._state.has_finished(record):
            return "its run is over"
        reason = "" if observed is None or not observed.reason else f": {observed.reason}"
        if observed is not None and observed.state is ObservedState.FAILED:
            return f"{name} cannot run it{reason}"
        if waited >= PREPARE_TIMEOUT:
            return f"{name} was not ready for it within {PREPARE_TIMEOUT:.0f} s{reason}"
        return None


def _step(record: PipelineRecord) -> tuple[int, str | None]:
    """Tells the steps of moves apart."""
    assert record.standby is not None
    return record.standby.run_generation, record.leaving


def _is_ready(observed: Observed | None, waited: float) -> bool:
    """Whether a device that has a pipeline paused could emit it at once."""
    if observed is None or observed.state is not ObservedState.PAUSED:
        return False
    return waited >= BLIND_AFTER if observed.ready is None else observed.ready
