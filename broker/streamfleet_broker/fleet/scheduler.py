"""Assigns pipelines to devices, and moves them away from devices that are gone. Pure.

unassigned ──room──▶ device ──gone──▶ another device, if the pipeline is movable
device ──another device desired──▶ leaving ──confirmed absent, or gone──▶ the other device
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from streamfleet_broker.fleet.devices import Device
from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.placement import Candidate, choose, meets
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.fleet.state import MAX_PIPELINES, State
from streamfleet_core.protocol.control_plane import Envelope, encode
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY
from streamfleet_core.protocol.messages import Desired
from streamfleet_core.protocol.values import Labels

# The desired state of a device is one message. The margin is for a desired status or a generation that grows.
MAX_DESIRED_SIZE = MAX_CONTROL_BODY - MAX_PIPELINES * 24  # bytes


class Scheduler:
    """Assigns pipelines to devices."""

    def __init__(self, state: State) -> None:
        self._state = state

    def place(self, now: float) -> None:
        """Assign pipelines without a device, and reassign movable ones of devices that are gone."""
        waiting = [
            record for record in self._state.records.of_device(None) if record.desired_status != "stop"
        ]
        for device in self._state.devices.values():
            if self._state.records.placed[device.name] and self._may_move_from(device, now):
                waiting += self.movable(device)
        for record, target in self.choices(waiting):
            self._state.change(self.moved(record, target, now))
            self._state.after_commit.append(
                LogEvent(record.pipeline_id, f"from {record.device or 'nowhere'} to {target}")
            )

    def choices(self, waiting: Iterable[PipelineRecord]) -> Iterator[tuple[PipelineRecord, str]]:
        """The device for each pipeline that finds one, oldest first, as if those before it were there."""
        if not (oldest_first := sorted(waiting, key=lambda record: record.created)):
            return
        # Stop early once no device has room, however many pipelines wait.
        candidates = {name: of for name, of in self.candidates().items() if of.room > 0}
        for record in oldest_first:
            if not candidates:
                return
            target = self.target(record, candidates)
            if target is None:
                continue
            yield record, target
            candidate = candidates.pop(target)
            if candidate.room > 1:
                candidates[target] = replace(candidate, assigned=candidate.assigned + 1)

    def moved(self, record: PipelineRecord, target: str | None, now: float) -> PipelineRecord:
        """The record of a pipeline that restarts on another device, or waits for one."""
        holder = record.holder
        free = holder is None or holder == target or self._state.is_gone(self._state.devices[holder], now)
        generation = record.generation + 1
        return replace(
            record,
            generation=generation,
            run_generation=generation,
            device=target,
            leaving=None if free else holder,
        )

    def movable(self, device: Device) -> list[PipelineRecord]:
        """The pipelines of a device that may move to another."""
        return [
            record
            for record in self._state.records.of_device(device.name)
            if record.desired_status != "stop" and not record.pinned and not self._state.has_ended(record)
        ]

    def candidates(self) -> dict[str, Candidate]:
        """The ready devices, by name."""
        return {
            name: self._candidate(device)
            for name, device in self._state.devices.items()
            if device.state == "ready"
        }

    def target(self, record: PipelineRecord, candidates: dict[str, Candidate]) -> str | None:
        """The device with most room whose message of the desired state has room too."""
        left = {name: of for name, of in candidates.items() if of.room > 0}
        if record.selector:
            left = {name: of for name, of in left.items() if self.meets(name, record.selector)}
        while (name := choose(left.values())) is not None and not self.fits(record, name):
            del left[name]
        return name

    def fits(self, record: PipelineRecord, name: str) -> bool:
        """Whether a pipeline fits into the message of the desired state of a device."""
        others = [
            other for other in self._state.records.of_device(name) if other.pipeline_id != record.pipeline_id
        ]
        assignments = (*(other.assignment() for other in others), record.assignment())
        return size(Desired(self._state.revision, assignments)) <= MAX_DESIRED_SIZE

    def meets(self, name: str, selector: Labels) -> bool:
        """Whether a device has all labels that a selector requires."""
        return meets(self._state.records.devices[name].labels, selector)

    def _may_move_from(self, device: Device, now: float) -> bool:
        return self._state.is_gone(device, now) and not (
            device.state == "lost" and self._state.network_partition_suspected
        )

    def _candidate(self, device: Device) -> Candidate:
        """A finished pipeline takes no capacity but is still part of the desired state."""
        records = self._state.records.of_device(device.name)
        finished = sum(map(self._state.has_finished, records))
        capacity = min(device.capacity, MAX_PIPELINES - finished)
        return Candidate(device.name, capacity, len(records) - finished)


def size(desired: Desired) -> int:
    """The size of the message in bytes."""
    try:
        return len(encode(Envelope(desired))[2])
    except BadMessage:
        return MAX_CONTROL_BODY + 1
