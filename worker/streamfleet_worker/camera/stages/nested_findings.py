"""What the stages of a pipeline have found in the objects of one frame. Pure."""

from __future__ import annotations

from streamfleet_worker.video.detection.findings import Findings, Nested


class NestedFindings:
    """Collects the results for one frame, until all are there or its time is over."""

    def __init__(self, *, until: float | None) -> None:
        """`until`: monotonic seconds at which the frame goes on without the rest; None: it waits for all."""
        self._until = until
        self._found: dict[int, dict[str, Findings]] = {}
        self._awaited = 0
        self.closed = False  # the frame has gone on: a later result is of no use

    @property
    def is_live(self) -> bool:
        """Whether it goes on without the rest at some time."""
        return self._until is not None

    def expect(self, count: int) -> None:
        """Wait for so many further results."""
        self._awaited += count

    def add(self, index: int, stage: str, findings: Findings) -> None:
        """Record the result of a stage for an object."""
        self._awaited -= 1
        self._found.setdefault(index, {})[stage] = findings

    def fail(self) -> None:
        """Record that a result will not come."""
        self._awaited -= 1

    def is_complete(self, now: float) -> bool:
        """Whether the frame can go on: everything is there, or its time is over."""
        return self._awaited <= 0 or self.wait(now) <= 0

    def wait(self, now: float) -> float:
        """Seconds until the frame goes on at the latest."""
        return float("inf") if self._until is None else self._until - now

    def close(self) -> Nested:
        """The results so far. What comes later is dropped."""
        self.closed = True
        return self._found
