"""Selects the next frames to infer, and the next slots to fill. Pure: no thread, no clock.

Sources of one priority take turns, in the order of `FairTurns`: a source that always has waiting frames
delays another by at most a few inferences. Between priorities, `PriorityOrder` decides. The slot of a live
source is filled shortly before its turn, so its frame is new however many sources wait. A file fills its
slots in advance.

    REQUESTED ──► ASKED ──► FILLED ──► running      a live source
                         FILLED ──► running      a file
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from streamfleet_core.protocol.values import PRIORITIES, Priority
from streamfleet_worker.engine.turns.fair_turns import ALWAYS_NEW, FairTurns
from streamfleet_worker.engine.turns.priority_order import PriorityOrder, rank

CameraT = TypeVar("CameraT", bound=Hashable)

ANSWER = 0.1  # seconds for a camera to fill its slot, after which another is asked too


class SlotBusy(Exception):
    """A request for a slot that its state does not allow."""


class _State(enum.Enum):
    REQUESTED = enum.auto()  # a frame waits, and the slot is empty
    ASKED = enum.auto()  # the camera fills it
    FILLED = enum.auto()


@dataclass(slots=True)
class _Waiting:
    """A slot that waits to run."""

    slot: int
    state: _State
    asked_at: float | None = None  # monotonic seconds; None of a file, and before its turn

    @property
    def is_chosen(self) -> bool:
        """Whether its frame has been chosen, or is being chosen, as its turn has come."""
        return self.asked_at is not None

    def is_coming(self, now: float) -> bool:
        """Whether its camera fills it now. One that does not answer does not count."""
        return self.state is _State.ASKED and self.asked_at is not None and now - self.asked_at < ANSWER


class TurnQueue(Generic[CameraT]):
    """The slots that wait to run, and those that run.

    Invariants: a slot waits or runs, at most once; a source waits for a turn of its priority exactly while a
    slot of it does.
    """

    def __init__(self) -> None:
        self._priorities: dict[CameraT, Priority] = {}  # of cameras that told theirs; of others it is normal
        self._order = PriorityOrder()
        self._waiting: dict[tuple[CameraT, int], deque[_Waiting]] = {}  # by camera and source
        self._turns: dict[Priority, FairTurns[tuple[CameraT, int]]] = {
            priority: FairTurns() for priority in PRIORITIES
        }
        self._sources: dict[tuple[CameraT, int], int] = {}  # of the waiting slots, by camera and slot
        self._filled: dict[tuple[CameraT, int], float] = {}  # monotonic seconds, the oldest first
        self._running: set[tuple[CameraT, int]] = set()

    def set_priority(self, camera: CameraT, priority: Priority) -> None:
        """Set the priority of a camera, also for its slots that wait."""
        if priority == self._priority(camera):
            return
        before = self._turns_of(camera)
        lanes = [(lane, before.remove(lane)) for lane in list(before) if lane[0] == camera]
        before.forget(lambda lane: lane[0] == camera)
        self._priorities[camera] = priority
        for lane, decoded_at in lanes:
            self._turns[priority].add(lane, decoded_at)

    def request_turn(self, camera: CameraT, source: int, slot: int, decoded_at: float) -> None:
        """Add a slot that is filled when its turn comes, or record that its source has a newer frame.

        `decoded_at`: monotonic seconds, of that frame. Raises: SlotBusy, without a change.
        """
        waiting = self._find(camera, slot)
        if waiting is None:
            self._add(camera, source, _Waiting(slot, _State.REQUESTED), decoded_at)
        elif waiting.state is _State.FILLED or self._sources[camera, slot] != source:
            raise SlotBusy(f"slot {slot} already waits")
        else:
            self._turns_of(camera).refresh((camera, source), decoded_at)

    def fill(self, camera: CameraT, source: int, slot: int, now: float) -> None:
        """Record that a slot is filled. Its turn was requested, or it is new. Raises: SlotBusy."""
        waiting = self._find(camera, slot)
        if waiting is None:
            self._add(camera, source, _Waiting(slot, _State.FILLED), ALWAYS_NEW)
        elif waiting.state is _State.FILLED:
            raise SlotBusy(f"slot {slot} already waits")
        else:
            waiting.state = _State.FILLED
        self._filled[camera, slot] = now

    def withdraw(self, camera: CameraT, slot: int) -> None:
        """Remove a slot that will not be filled. Raises: SlotBusy."""
        waiting = self._find(camera, slot)
        if waiting is None or waiting.state is _State.FILLED:
            raise SlotBusy(f"slot {slot} waits for no turn")
        self._remove(camera, waiting)

    def take(self, now: float, most: int = 1) -> list[tuple[CameraT, int]]:
        """Take the slots to run next, up to `most`. Sources that are filling keep their place."""
        taken: list[tuple[CameraT, int]] = []
        while self._filled and len(taken) < most:
            taken.append(self._take_next(now))
        return taken

    def ask(self, now: float, ahead: int) -> list[tuple[CameraT, int]]:
        """The slots whose cameras are to fill them now, so that `ahead` slots are filled or in filling."""
        asked = []
        prepared = 0
        waiting = self._waiting_priorities
        order = self._order.copy() if len(waiting) > 1 else self._order
        lanes = {priority: iter(self._order_to_ask(priority, now)) for priority in waiting}
        while prepared < ahead and lanes:
            priority = order.sequence(lanes)[0]
            lane = next(lanes[priority], None)
            if lane is None:
                del lanes[priority]
                continue
            first = self._waiting[lane][0]
            if first.state is _State.REQUESTED:
                first.state, first.asked_at = _State.ASKED, now
                self._turns[priority].refresh(lane, ALWAYS_NEW)  # its frame is chosen
                asked.append((lane[0], first.slot))
            # A camera that does not answer must not keep the others from being asked.
            if first.state is _State.FILLED or first.is_coming(now):
                prepared += 1
                if len(waiting) > 1:
                    order.record(priority, waiting)
        return asked

    @property
    def filled(self) -> int:
        """The number of slots that can run."""
        return len(self._filled)

    @property
    def oldest(self) -> float:
        """Monotonic seconds at which the first of them was filled; 0 if there is none."""
        return next(iter(self._filled.values()), 0.0)

    def coming(self, now: float) -> int:
        """The number of slots whose cameras fill them now, and for which the filled ones may wait.

        One that does not answer does not count, nor one of a lower priority than a filled one.
        """
        highest = min((rank(self._priority(camera)) for camera, _ in self._filled), default=len(PRIORITIES))
        return sum(
            waiting.is_coming(now)
            for (camera, _), slots in self._waiting.items()
            if rank(self._priority(camera)) <= highest
            for waiting in slots
        )

    @property
    def has_waiting(self) -> bool:
        """Whether a slot waits, filled or not."""
        return bool(self._waiting)

    @property
    def has_requests(self) -> bool:
        """Whether a slot waits that is not filled."""
        return any(
            waiting.state is not _State.FILLED for slots in self._waiting.values() for waiting in slots
        )

    def finish(self, camera: CameraT, slot: int) -> None:
        """Record that the run of a slot has ended. The slot may be used again."""
        self._running.discard((camera, slot))

    def forget(self, camera: CameraT) -> None:
        """Remove a camera. Its running slots are left to end."""
        for lane in [lane for lane in self._waiting if lane[0] == camera]:
            for waiting in self._waiting.pop(lane):
                del self._sources[camera, waiting.slot]
                self._filled.pop((camera, waiting.slot), None)
        self._turns_of(camera).forget(lambda lane: lane[0] == camera)
        self._priorities.pop(camera, None)

    def check(self) -> None:
        """Assert the invariants."""
        lanes = [lane for turns in self._turns.values() for lane in turns]
        assert len(lanes) == len(self._waiting)
        assert set(lanes) == set(self._waiting)
        assert all(lane in self._turns_of(lane[0]) for lane in lanes)
        slots = [(camera, waiting.slot) for (camera, _), lane in self._waiting.items() for waiting in lane]
        assert len(slots) == len(set(slots)) == len(self._sources)
        assert not set(slots) & self._running
        assert all(self._waiting.values())
        assert self._filled.keys() == {
            (camera, waiting.slot)
            for (camera, _), lane in self._waiting.items()
            for waiting in lane
            if waiting.state is _State.FILLED
        }

    def _add(self, camera: CameraT, source: int, waiting: _Waiting, decoded_at: float) -> None:
        key = (camera, waiting.slot)
        if key in self._running or key in self._sources:
            raise SlotBusy(f"slot {waiting.slot} already waits or runs")
        lane = (camera, source)
        if lane not in self._waiting:
            self._waiting[lane] = deque()
            self._turns_of(camera).add(lane, decoded_at)
        self._waiting[lane].append(waiting)
        self._sources[key] = source

    def _find(self, camera: CameraT, slot: int) -> _Waiting | None:
        source = self._sources.get((camera, slot))
        if source is None:
            return None
        return next(waiting for waiting in self._waiting[camera, source] if waiting.slot == slot)

    def _take_next(self, now: float) -> tuple[CameraT, int]:
        priorities = self._waiting_priorities
        priority, lane, waiting = next(
            (priority, lane, waiting)
            for priority in self._order.sequence(priorities)
            for lane in self._order_to_run(priority, now)
            for waiting in self._waiting[lane]
            if waiting.state is _State.FILLED
        )
        self._order.record(priority, priorities)
        camera, _ = lane
        self._turns[priority].take(lane)
        self._drop(lane, waiting)
        if lane in self._waiting:  # a file, as a live source fills one slot at a time
            self._turns[priority].add(lane, ALWAYS_NEW)
        self._running.add((camera, waiting.slot))
        return camera, waiting.slot

    def _order_to_run(self, priority: Priority, now: float) -> list[tuple[CameraT, int]]:
        """The waiting sources, those first whose frame is chosen, as each moment makes it older."""

        def chosen_at(lane: tuple[CameraT, int]) -> float:
            first = self._waiting[lane][0]
            return self._filled.get((lane[0], first.slot), math.inf) if first.is_chosen else math.inf

        return sorted(self._turns[priority].order(now), key=chosen_at)

    def _order_to_ask(self, priority: Priority, now: float) -> list[tuple[CameraT, int]]:
        """The waiting sources, those first whose frame is chosen: no newer one may be chosen beside it."""
        order = self._turns[priority].order(now)
        return sorted(order, key=lambda lane: not self._waiting[lane][0].is_chosen)

    def _remove(self, camera: CameraT, waiting: _Waiting) -> None:
        lane = (camera, self._sources[camera, waiting.slot])
        self._drop(lane, waiting)
        if lane not in self._waiting:
            self._turns_of(camera).remove(lane)

    def _drop(self, lane: tuple[CameraT, int], waiting: _Waiting) -> None:
        key = (lane[0], waiting.slot)
        self._filled.pop(key, None)
        del self._sources[key]
        self._waiting[lane].remove(waiting)
        if not self._waiting[lane]:
            del self._waiting[lane]

    def _priority(self, camera: CameraT) -> Priority:
        return self._priorities.get(camera, "normal")

    def _turns_of(self, camera: CameraT) -> FairTurns[tuple[CameraT, int]]:
        return self._turns[self._priority(camera)]

    @property
    def _waiting_priorities(self) -> list[Priority]:
        return [priority for priority, turns in self._turns.items() if len(turns)]
