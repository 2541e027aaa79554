"""What devices confirm and give up, and what is over with a device that is gone. Pure."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.movement import Movement
from streamfleet_broker.records import FloorRecord, PipelineRecord
from streamfleet_broker.roster import Device, Session, is_silent
from streamfleet_broker.state import State
from streamfleet_broker.waiting import Waiting


class Releases:
    """Draws the conclusions from what devices run, or run no longer."""

    def __init__(self, state: State, movement: Movement, waiting: Waiting) -> None:
        self._state = state
        self._movement = movement
        self._waiting = waiting

    def confirm(self, device: Device, session: Session, now: float) -> None:
        """Draw the conclusions from what a device says that it runs."""
        for record in self._state.ledger.of_device(device.name):
            if record.leaving is None and record.want != "stop":
                self._waiting.settle(record, now)
            elif record.leaving is None and self._has_released(device, session, record):
                self.remove(record, now, done=True)
        given_up = [
            record
            for record in self._state.ledger.taken_from(device.name)
            if self._has_released(device, session, record)
        ]
        for record in given_up:
            self._give_free(record, now, done=True)
        if given_up:
            self._movement.place(now)

    def release_gone(self, now: float) -> None:
        """A device that is gone confirms nothing. Should it return, it is told what it may run."""
        for device in self._state.devices.values():
            if not self._state.is_gone(device, now):
                continue
            for record in self._state.ledger.of_device(device.name):
                if record.want == "stop" and record.leaving is None:
                    self.remove(record, now, done=is_silent(device, record))
            for record in self._state.ledger.taken_from(device.name):
                self._give_free(record, now, done=is_silent(device, record))

    def remove(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """The pipeline is no more. `done`: it certainly emits nothing any longer."""
        self._state.ledger.remove(record)
        if record.gen > self._state.ledger.floor:
            self._state.ledger.write(FloorRecord(record.gen))
        self._state.touch({record.device})
        self._state.stirred.add(record.pipeline_id)
        self._state.released.pop(record.pipeline_id, None)
        self._waiting.removed(record, now, done=done)

    def _has_released(self, device: Device, session: Session, record: PipelineRecord) -> bool:
        """Has the holder of a pipeline heard that it must not run it, and does not?"""
        told = self._state.released.get(record.pipeline_id, device.rev)
        return record.pipeline_id not in device.observed and session.applied_rev >= told

    def _give_free(self, record: PipelineRecord, now: float, *, done: bool) -> None:
        """The device that a pipeline was taken from does not hold it any longer."""
        if record.want == "stop":
            self.remove(record, now, done=done)
            return
        self._state.released.pop(record.pipeline_id, None)
        self._state.change(replace(record, leaving=None))
