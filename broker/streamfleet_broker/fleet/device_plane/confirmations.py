"""Applies what devices confirm: removes stopped pipelines, and frees those that move. Pure."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.fleet.devices import Device, Session, is_silent
from streamfleet_broker.fleet.pending_replies import PendingReplies
from streamfleet_broker.fleet.records import FloorRecord, PipelineRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.values import ObservedState


class DeviceConfirmations:
    """Updates pipelines according to what devices run and no longer run."""

    def __init__(self, state: State, scheduler: Scheduler, pending_replies: PendingReplies) -> None:
        self._state = state
        self._scheduler = scheduler
        self._pending_replies = pending_replies

    def confirm(self, device: Device, session: Session, now: float) -> None:
        """Apply the report of a device about what it runs."""
        for record in self._state.records.of_device(device.name):
            if record.leaving is None and record.desired_status != "stop":
                self._pending_replies.settle(record, now)
            elif record.leaving is None and self._has_released(device, session, record):
                self.remove(record, now, done=True)
        given_up = [
            record
            for record in self._state.records.taken_from(device.name)
            if self._has_released(device, session, record)
        ]
        for record in given_up:
            self.give_free(record, now, done=True)
        if given_up:
            self._scheduler.place(now)

    def release_gone(self, now: float) -> None:
        """Release the pipelines of devices that are gone. A device that returns gets its desired state."""
        for device in self._state.absent():
            if not self._state.is_gone(device, now):
                continue
            for record in self._state.records.of_device(device.name):
                if record.desired_status == "stop" and record.leaving is None:
                    self.remove(record, now, done=is_silent(device, record))
            for record in self._state.records.taken_from(device.name):
                self.give_free(record, now, done=is_silent(device, record))

    def remove(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """Remove a pipeline. `done`: it certainly emits nothing more."""
        self._state.touch(self._state.records.pipelines[record.pipeline_id].devices)
        self._state.records.remove(record)
        if record.generation > self._state.records.floor:
            self._state.records.write(FloorRecord(record.generation))
        self._state.dirty_pipelines.add(record.pipeline_id)
        self._state.released.pop(record.pipeline_id, None)
        self._pending_replies.removed(record, now, done=done)

    def _has_released(self, device: Device, session: Session, record: PipelineRecord) -> bool:
        """Whether the holder has applied that it must not run the pipeline, and does not run it.

        With a standby it has the pipeline paused: it emits nothing until it is told to run it again.
        """
        released = self._state.released.get(record.pipeline_id, device.revision)
        if session.applied_revision < released:
            return False
        observed = device.observed.get(record.pipeline_id)
        if observed is None:
            return True
        is_paused = observed.state is ObservedState.PAUSED and observed.generation >= record.generation
        return is_paused and record.standby is not None

    def give_free(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """Free a pipeline from the device that it was taken from."""
        if record.desired_status == "stop":
            self.remove(record, now, done=done)
            return
        self._state.released.pop(record.pipeline_id, None)
        # The device that it goes to has it paused, under this generation, if it was a standby.
        generation = record.generation if record.standby is None else record.generation + 1
        displaced = record.displaced if record.device is None else ""
        self._state.change(
            replace(record, leaving=None, standby=None, generation=generation, displaced=displaced)
        )
