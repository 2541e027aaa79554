"""Selects the next frame to infer. Pure: no thread, no clock.

Cameras take turns: a camera that always has waiting frames delays another by at most one inference per run
thread.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

CameraT = TypeVar("CameraT")


class SlotBusy(Exception):
    """A run was requested for a slot that already waits or runs."""


class FairQueue(Generic[CameraT]):
    """The slots that wait to run, and those that run.

    Invariants: a slot is in at most one of the two sets, once; a camera is in the circle exactly while it has
    waiting slots.
    """

    def __init__(self) -> None:
        self._waiting: dict[CameraT, deque[int]] = {}
        self._circle: deque[CameraT] = deque()
        self._running: set[tuple[CameraT, int]] = set()

    def add(self, camera: CameraT, slot: int) -> None:
        """Add a slot to run. Raises: SlotBusy, without a change."""
        waiting = self._waiting.get(camera)
        if (camera, slot) in self._running or (waiting is not None and slot in waiting):
            raise SlotBusy(f"slot {slot} already waits or runs")
        if waiting is None:
            self._waiting[camera] = deque([slot])
            self._circle.append(camera)
        else:
            waiting.append(slot)

    def take(self) -> tuple[CameraT, int] | None:
        """Take the slot to run next; None if none waits."""
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
        """Record that the run of a slot has ended. The slot may be added again."""
        self._running.discard((camera, slot))

    def forget(self, camera: CameraT) -> None:
        """Remove a camera. Its running slots are left to end."""
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
