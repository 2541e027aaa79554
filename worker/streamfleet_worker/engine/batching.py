"""Whose frame is inferred next. Pure: no thread, no clock.

Cameras take turns: one that always has frames waiting delays another by at most one inference a run thread.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

CameraT = TypeVar("CameraT")


class OutOfTurn(Exception):
    """A slot was asked to run that already waits or runs."""


class Turns(Generic[CameraT]):
    """Slots that wait to run, and slots that run.

    Invariants: a slot is at most once in the two; a camera stands in the circle exactly while it has slots
    waiting.
    """

    def __init__(self) -> None:
        self._waiting: dict[CameraT, deque[int]] = {}
        self._circle: deque[CameraT] = deque()
        self._running: set[tuple[CameraT, int]] = set()

    def add(self, camera: CameraT, slot: int) -> None:
        """Raises: OutOfTurn, and nothing has changed."""
        waiting = self._waiting.get(camera)
        if (camera, slot) in self._running or (waiting is not None and slot in waiting):
            raise OutOfTurn(f"slot {slot} already waits or runs")
        if waiting is None:
            self._waiting[camera] = deque([slot])
            self._circle.append(camera)
        else:
            waiting.append(slot)

    def take(self) -> tuple[CameraT, int] | None:
        """The slot to run now, or None when none waits."""
        if not self._circle:
            return None
        camera = self._circle.popleft()
        waiting = self._waiting[camera]
        slot = waiting.popleft()
        if waiting:
            self._circle.append(camera)
        else:
            del self._waiting[camera]
        self._running.add((camera, slot))
        return camera, slot

    def finish(self, camera: CameraT, slot: int) -> None:
        """The run of a slot that was taken is over; the slot may be added again."""
        self._running.discard((camera, slot))

    def forget(self, camera: CameraT) -> None:
        """The camera is gone; what runs for it is left to end."""
        if self._waiting.pop(camera, None) is not None:
            self._circle.remove(camera)

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._circle) == len(self._waiting) == len(set(self._circle))
        assert set(self._circle) == set(self._waiting)
        for camera, slots in self._waiting.items():
            assert slots
            assert len(slots) == len(set(slots))
            assert not any((camera, slot) in self._running for slot in slots)
