"""Recent events of pipelines and devices: a ring, filled by comparing snapshots. Pure.

The events of the last step can be undone when the store rejects the step, before any client has seen them.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from streamfleet_core.protocol.requests import Events, FleetEvent
from streamfleet_core.protocol.source_reference import cut_reason

KEPT = 2_000  # events

Subject = Literal["pipeline", "device"]
# Of one pipeline or device: its state, the device of a pipeline, the number of restarts, and the trouble of a
# device that is ready.
Snapshot = tuple[str, str | None, int, str]


class EventLog:
    """The last events, and the last snapshot of everything."""

    def __init__(self) -> None:
        self._events: deque[FleetEvent] = deque(maxlen=KEPT)
        self._last = 0  # number of the last event
        self._snapshots: dict[tuple[Subject, str], Snapshot] = {}
        # Of the last step: the snapshots before it, and the events that it pushed out of the ring.
        self._before: dict[tuple[Subject, str], Snapshot | None] = {}
        self._pushed_out: list[FleetEvent] = []
        self._first = 1  # number of its first event

    def begin_step(self) -> None:
        """Keep all events up to now."""
        self._before.clear()
        self._pushed_out.clear()
        self._first = self._last + 1

    def undo_step(self) -> set[tuple[Subject, str]]:
        """Remove the events of the last step, and return what they were about."""
        undone = set(self._before)
        while self._events and self._events[-1].n >= self._first:
            self._events.pop()
        self._last = self._first - 1
        self._events.extendleft(reversed(self._pushed_out))
        for address, snapshot in self._before.items():
            self._put(address, snapshot)
        self.begin_step()
        return undone

    def assume(self, subject: Subject, name: str, snapshot: Snapshot) -> None:
        """Set the first snapshot, which makes no event."""
        self._snapshots[subject, name] = snapshot

    def is_new(self, subject: Subject, name: str, snapshot: Snapshot | None) -> bool:
        """Whether a snapshot differs from the last one. None means that the subject is gone."""
        return self._snapshots.get((subject, name)) != snapshot

    def known(self, subject: Subject) -> set[str]:
        """The names in the last snapshots."""
        return {name for of, name in self._snapshots if of == subject}

    def add(self, subject: Subject, name: str, snapshot: Snapshot | None, reason: str, at: float) -> None:
        """Record a changed snapshot as an event."""
        address = (subject, name)
        before = self._snapshots.get(address)
        self._before.setdefault(address, before)
        self._put(address, snapshot)
        state, device, restarts, _ = snapshot or ("gone", None if before is None else before[1], 0, "")
        if not reason and before is not None and before[0] == state and before[3]:
            reason = cut_reason(f"ended: {before[3]}")  # trouble: nothing else tells what is over
        self._last += 1
        previous = "" if before is None else before[0]
        self._append(
            FleetEvent(
                n=self._last,
                at=at,
                subject=subject,
                id=name,
                state=state,
                previous=previous,
                device=device,
                reason=reason,
                restarts=restarts,
            )
        )

    def report(self, process: str, reason: str, at: float) -> None:
        """Record a reported event of a process, which has no snapshot."""
        self._last += 1
        self._append(
            FleetEvent(
                n=self._last,
                at=at,
                subject="process",
                id=process,
                state="restarting",
                previous="",
                device=None,
                reason=reason,
            )
        )

    def _append(self, event: FleetEvent) -> None:
        if len(self._events) == KEPT and self._events[0].n < self._first:
            self._pushed_out.append(self._events[0])
        self._events.append(event)

    def after(self, number: int | None, epoch: int) -> Events:
        """The events after a number; with None, all known events."""
        events = tuple(self._events)
        oldest = events[0].n if events else self._last + 1
        if number is None or number > self._last:  # of another epoch
            return Events(epoch, events, lost=number is not None)
        if number + 1 < oldest:
            return Events(epoch, events, lost=True)
        return Events(epoch, events[number + 1 - oldest :])

    def check(self) -> None:
        """Assert what always holds."""
        numbers = [event.n for event in self._events]
        assert numbers == list(range(self._last + 1 - len(numbers), self._last + 1))

    def _put(self, address: tuple[Subject, str], snapshot: Snapshot | None) -> None:
        if snapshot is None:
            self._snapshots.pop(address, None)
        else:
            self._snapshots[address] = snapshot
