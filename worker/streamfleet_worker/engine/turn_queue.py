"""Selects the next frames to infer, and the next slots to fill. Pure: no thread, no clock.

Sources of one priority take turns: a source that always has waiting frames delays another by at most one
inference. Between priorities, `PriorityOrder` decides. The slot of a live source is filled shortly before its
turn, so its frame is new however many sources wait. A file fills its slots in advance.

    REQUESTED ──► ASKED ──► FILLED ──► running      a live source
                         FILLED ──► running      a file
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from streamfleet_core.protocol.values import PRIORITIES, Priority
from streamfleet_worker.engine.priority_order import PriorityOrder, rank

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
    asked_at: float = 0.0  # monotonic seconds

    def is_coming(self, now: float) -> bool:
        """Whether its camera fills it now. One that does not answer does not count."""
        return self.state is _State.ASKED and now - self.asked_at < ANSWER


class TurnQueue(Generic[CameraT]):
    """The slots that wait to run, and those that run.

    Invariants: a slot waits or runs, at most once; a source is in the circle of its priority exactly while a
    slot of it waits.
    """

    def __init__(self) -> None:
        self._priorities: dict[CameraT, Priority] = {}  # of cameras that told theirs; of others it is normal
        self._order = PriorityOrder()
        self._waiting: dict[tuple[CameraT, int], deque[_Waiting]] = {}  # by camera and source
        # Of each priority that waits, in the order of their turns.
        self._circles: dict[Priority, deque[tuple[CameraT, int]]] = {}
        self._sources: dict[tuple[CameraT, int], int] = {}  # of the waiting slots, by camera and slot
        self._filled: dict[tuple[CameraT, int], float] = {}  # monotonic seconds, the oldest first
        self._running: set[tuple[CameraT, int]] = set()

    def set_priority(self, camera: CameraT, priority: Priority) -> None:
        """Set the priority of a camera, also for its slots that wait."""
        lanes = [lane for lane in self._circles.get(self._priority(camera), ()) if lane[0] == camera]
        for lane in lanes:
            self._leave_circle(lane)
        self._priorities[camera] = priority
        for lane in lanes:
            self._join_circle(lane)

    def request_turn(self, camera: CameraT, source: int, slot: int) -> None:
        """Add a slot that is filled when its turn comes. Raises: SlotBusy, without a change."""
        self._add(camera, source, _Waiting(slot, _State.REQUESTED))

    def fill(self, camera: CameraT, source: int, slot: int, now: float) -> None:
        """Record that a slot is filled. Its turn was requested, or it is new. Raises: SlotBusy."""
        waiting = self._find(camera, slot)
        if waiting is None:
            self._add(camera, source, _Waiting(slot, _State.FILLED))
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

    def take(self, most: int = 1) -> list[tuple[CameraT, int]]:
        """Take the slots to run next, up to `most`. Sources that are filling keep their place."""
        taken: list[tuple[CameraT, int]] = []
        while self._filled and len(taken) < most:
            taken.append(self._take_next())
        return taken

    def ask(self, now: float, ahead: int) -> list[tuple[CameraT, int]]:
        """The slots whose cameras are to fill them now, so that `ahead` slots are filled or in filling."""
        asked = []
        prepared = 0
        order = self._order if len(self._circles) < 2 else self._order.copy()
        lanes = {priority: iter(circle) for priority, circle in self._circles.items()}
        while prepared < ahead and lanes:
            priority = order.sequence(lanes)[0]
            lane = next(lanes[priority], None)
            if lane is None:
                del lanes[priority]
                continue
            first = self._waiting[lane][0]
            if first.state is _State.REQUESTED:
                first.state, first.asked_at = _State.ASKED, now
                asked.append((lane[0], first.slot))
            # A camera that does not answer must not keep the others from being asked.
            if first.state is _State.FILLED or first.is_coming(now):
                prepared += 1
                if len(self._circles) > 1:
                    order.record(priority, self._circles)
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
        return bool(self._circles)

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
        for lane in [lane for lane in self._circles.get(self._priority(camera), ()) if lane[0] == camera]:
            for waiting in self._waiting.pop(lane):
                del self._sources[camera, waiting.slot]
                self._filled.pop((camera, waiting.slot), None)
            self._leave_circle(lane)
        self._priorities.pop(camera, None)

    def check(self) -> None:
        """Assert the invariants."""
        lanes = [lane for circle in self._circles.values() for lane in circle]
        assert all(self._circles.values())
        assert all(
            self._priority(camera) == priority
            for priority, circle in self._circles.items()
            for camera, _ in circle
        )
        assert len(lanes) == len(self._waiting) == len(set(lanes))
        assert set(lanes) == set(self._waiting)
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

    def _add(self, camera: CameraT, source: int, waiting: _Waiting) -> None:
        key = (camera, waiting.slot)
        if key in self._running or key in self._sources:
            raise SlotBusy(f"slot {waiting.slot} already waits or runs")
        lane = (camera, source)
        if lane not in self._waiting:
            self._waiting[lane] = deque()
            self._join_circle(lane)
        self._waiting[lane].append(waiting)
        self._sources[key] = source

    def _find(self, camera: CameraT, slot: int) -> _Waiting | None:
        source = self._sources.get((camera, slot))
        if source is None:
            return None
        return next(waiting for waiting in self._waiting[camera, source] if waiting.slot == slot)

    def _take_next(self) -> tuple[CameraT, int]:
        priority, lane, waiting = next(
            (priority, lane, waiting)
            for priority in self._order.sequence(self._circles)
            for lane in self._circles[priority]
            for waiting in self._waiting[lane]
            if waiting.state is _State.FILLED
        )
        self._order.record(priority, self._circles)
        camera, _ = lane
        self._remove(camera, waiting)
        if lane in self._waiting:
            self._leave_circle(lane)
            self._join_circle(lane)
        self._running.add((camera, waiting.slot))
        return camera, waiting.slot

    def _remove(self, camera: CameraT, waiting: _Waiting) -> None:
        self._filled.pop((camera, waiting.slot), None)
        lane = (camera, self._sources.pop((camera, waiting.slot)))
        self._waiting[lane].remove(waiting)
        if not self._waiting[lane]:
            del self._waiting[lane]
            self._leave_circle(lane)

    def _priority(self, camera: CameraT) -> Priority:
        return self._priorities.get(camera, "normal")

    def _join_circle(self, lane: tuple[CameraT, int]) -> None:
        self._circles.setdefault(self._priority(lane[0]), deque()).append(lane)

    def _leave_circle(self, lane: tuple[CameraT, int]) -> None:
        priority = self._priority(lane[0])
        self._circles[priority].remove(lane)
        if not self._circles[priority]:
            del self._circles[priority]
