"""Where pipelines go: placed where they may run, and moved from where they cannot. Pure.

nowhere ──room──▶ device ──gone──▶ another, if it may move
device ──wished elsewhere──▶ leaving ──confirmed absent, or gone──▶ the other
"""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.effects import Audit
from streamfleet_broker.placement import Candidate, choose, meets
from streamfleet_broker.protocol.control import MAX_BODY, Envelope, encode
from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import Desired
from streamfleet_broker.protocol.values import Labels
from streamfleet_broker.records import PipelineRecord
from streamfleet_broker.roster import Device
from streamfleet_broker.state import MAX_PIPELINES, State

# The wishes of a device travel in one message too. What is left of it is for a `want` or a `gen` that grows.
MAX_WISHES = MAX_BODY - MAX_PIPELINES * 24  # bytes


class Movement:
    """Decides which device has which pipeline."""

    def __init__(self, state: State) -> None:
        self._state = state

    def place(self, now: float) -> None:
        """Give pipelines without a device one, and movable ones of a device that is gone another."""
        waiting = [record for record in self._state.ledger.of_device(None) if record.want != "stop"]
        for device in self._state.devices.values():
            if self._state.ledger.placed[device.name] and self._may_move_from(device, now):
                waiting += self.movable(device)
        if not waiting:
            return
        # Once nobody has room, it does not matter how many wait.
        candidates = {name: of for name, of in self.candidates().items() if of.room > 0}
        for record in sorted(waiting, key=lambda record: record.created):
            if not candidates:
                break
            target = self.target(record, candidates)
            if target is None:
                continue
            self._state.change(self.moved(record, target, now))
            candidate = candidates.pop(target)
            if candidate.room > 1:
                candidates[target] = replace(candidate, assigned=candidate.assigned + 1)
            self._state.then.append(
                Audit(record.pipeline_id, f"from {record.device or 'nowhere'} to {target}")
            )

    def moved(self, record: PipelineRecord, target: str | None, now: float) -> PipelineRecord:
        """A pipeline, to begin anew on another device, or on none yet."""
        holder = record.holder
        free = holder is None or holder == target or self._state.is_gone(self._state.devices[holder], now)
        gen = record.gen + 1
        return replace(record, gen=gen, start_gen=gen, device=target, leaving=None if free else holder)

    def movable(self, device: Device) -> list[PipelineRecord]:
        """The pipelines of a device that may go to another by themselves."""
        return [
            record
            for record in self._state.ledger.of_device(device.name)
            if record.want != "stop" and not record.pinned and not self._state.has_ended(record)
        ]

    def candidates(self) -> dict[str, Candidate]:
        """The devices that are ready, by name."""
        return {
            name: self._candidate(device)
            for name, device in self._state.devices.items()
            if device.state == "ready"
        }

    def target(self, record: PipelineRecord, candidates: dict[str, Candidate]) -> str | None:
        """The device with most room, also in the message that tells it its wishes."""
        left = {name: of for name, of in candidates.items() if of.room > 0}
        if record.selector:
            left = {name: of for name, of in left.items() if self.meets(name, record.selector)}
        while (name := choose(left.values())) is not None and not self.fits(record, name):
            del left[name]
        return name

    def fits(self, record: PipelineRecord, name: str) -> bool:
        """Is there room for a pipeline in the message that tells a device its wishes?"""
        others = [
            other for other in self._state.ledger.of_device(name) if other.pipeline_id != record.pipeline_id
        ]
        wishes = (*(other.wish() for other in others), record.wish())
        return size(Desired(self._state.rev, wishes)) <= MAX_WISHES

    def meets(self, name: str, selector: Labels) -> bool:
        """Has a device all the labels that a selector asks for?"""
        return meets(self._state.ledger.devices[name].labels, selector)

    def _may_move_from(self, device: Device, now: float) -> bool:
        return self._state.is_gone(device, now) and not (device.state == "lost" and self._state.mass)

    def _candidate(self, device: Device) -> Candidate:
        """What has finished takes no capacity, but its wish is still one of those that are told."""
        records = self._state.ledger.of_device(device.name)
        finished = sum(map(self._state.has_finished, records))
        capacity = min(device.capacity, MAX_PIPELINES - finished)
        return Candidate(device.name, capacity, len(records) - finished)


def size(desired: Desired) -> int:
    """Bytes of the message."""
    try:
        return len(encode(Envelope(desired))[2])
    except BadMessage:
        return MAX_BODY + 1
