"""The crops that wait for a slot of a stage's engine. Pure.

The newest frame of live sources is next: if the engine is too slow for all of them, older ones would be late
in any case, and would delay the ones behind them. Frames of files go in their order.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from streamfleet_worker.camera.stages.nested_findings import NestedFindings

JobT = TypeVar("JobT")


class CropQueue(Generic[JobT]):
    """Jobs by frame, those of a frame in their order."""

    def __init__(self) -> None:
        self._jobs: dict[NestedFindings, deque[JobT]] = {}  # the oldest frame first

    def add(self, frame: NestedFindings, job: JobT) -> None:
        """Add a job of a frame."""
        self._jobs.setdefault(frame, deque()).append(job)

    def drop_closed(self) -> int:
        """Drop the jobs of frames that have gone on, and return their number."""
        closed = [frame for frame in self._jobs if frame.closed]
        return sum(len(self._jobs.pop(frame)) for frame in closed)

    def clear(self) -> int:
        """Drop all jobs, and return their number."""
        count = sum(map(len, self._jobs.values()))
        self._jobs.clear()
        return count

    def take(self) -> JobT | None:
        """Take the next job; None if there is none."""
        frame = next((frame for frame in reversed(self._jobs) if frame.is_live), None)
        if frame is None:
            frame = next(iter(self._jobs), None)
        if frame is None:
            return None
        jobs = self._jobs[frame]
        job = jobs.popleft()
        if not jobs:
            del self._jobs[frame]
        return job

    def __bool__(self) -> bool:
        """Whether there are jobs."""
        return bool(self._jobs)
