"""What happened to pipelines and devices, lately: a ring of events, made by comparing how things stand. Pure.

What a step noticed can be undone as long as nobody was told, when the store did not take the step.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from streamfleet_broker.protocol.requests import Events, FleetEvent

KEPT = 2_000  # events

Subject = Literal["pipeline", "device"]
# How one thing stands: its state, the device of a pipeline, and how often its process was begun again.
Standing = tuple[str, str | None, int]


class EventLog:
    """The last events, and how everything stood when it was looked at last."""

    def __init__(self) -> None:
        self._events: deque[FleetEvent] = deque(maxlen=KEPT)
        self._last = 0  # number of the last event
        self._standings: dict[tuple[Subject, str], Standing] = {}
        # Of the last step: what it pushed out of the ring or added, and how things stood before it.
        self._before: dict[tuple[Subject, str], Standing | None] = {}
        self._pushed_out: list[FleetEvent] = []
        self._first = 1  # number of its first event

    def begin_step(self) -> None:
        """What was noticed until now stays."""
        self._before.clear()
        self._pushed_out.clear()
        self._first = self._last + 1

    def undo_step(self) -> None:
        """Nothing of the last step came to pass."""
        while self._events and self._events[-1].n >= self._first:
            self._events.pop()
        self._last = self._first - 1
        self._events.extendleft(reversed(self._pushed_out))
        for address, standing in self._before.items():
            self._put(address, standing)
        self.begin_step()

    def assume(self, subject: Subject, name: str, standing: Standing) -> None:
        """It stands so from the beginning, which is no event."""
        self._standings[subject, name] = standing

    def is_new(self, subject: Subject, name: str, standing: Standing | None) -> bool:
        """Does it stand otherwise than when it was looked at last? None: it is no more."""
        return self._standings.get((subject, name)) != standing

    def known(self, subject: Subject) -> set[str]:
        """What there was when it was looked at last."""
        return {name for of, name in self._standings if of == subject}

    def add(self, subject: Subject, name: str, standing: Standing | None, reason: str, at: float) -> None:
        """It stands otherwise now."""
        address = (subject, name)
        before = self._standings.get(address)
        self._before.setdefault(address, before)
        self._put(address, standing)
        state, device, restarts = standing or ("gone", None if before is None else before[1], 0)
        self._last += 1
        if len(self._events) == KEPT and self._events[0].n < self._first:
            self._pushed_out.append(self._events[0])
        previous = "" if before is None else before[0]
        event = FleetEvent(self._last, at, subject, name, state, previous, device, reason, restarts)
        self._events.append(event)

    def after(self, number: int | None, epoch: int) -> Events:
        """What came after an event, or with None all that is known."""
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

    def _put(self, address: tuple[Subject, str], standing: Standing | None) -> None:
        if standing is None:
            self._standings.pop(address, None)
        else:
            self._standings[address] = standing
