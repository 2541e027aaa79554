"""What a drill showed, from the messages that arrived. Pure.

A message is doubled if its key is not above all keys of its pipeline before: two processes emitted it, or one
that should have stopped. Nothing is lost on the way if the numbers within one process have no gap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Key = tuple[int, int, int]

DETECTED = 10.5  # seconds at most until the fleet knows that a device is lost
FIRST = 15.0  # seconds at most until the first prediction of the replacement
RESTARTED = 10.0  # the same after one process was killed


@dataclass(frozen=True, slots=True)
class Arrival:
    """A prediction that arrived."""

    at: float  # monotonic seconds
    key: Key
    device: int  # short id


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOutcome:
    """What one pipeline went through. Times are in seconds."""

    pipeline_id: str
    first: float | None  # from the fault to the first prediction of the replacement; None: there was none
    interruption: float  # the longest time without a prediction, from shortly before the fault on
    lost: int  # numbers that are missing within a process
    doubled: int
    moved: bool  # it predicts on another device than before


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOutcome:
    """One drill."""

    fault: str
    device: str
    at: str  # local time, ISO 8601
    detected: float | None  # seconds until the fleet told of it; None: it did not
    pipelines: tuple[PipelineOutcome, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What was worse than its target."""
        found = []
        limit = FIRST if self.fault == "isolate" else RESTARTED
        if self.fault == "isolate" and (self.detected is None or self.detected > DETECTED):
            found.append(f"detected after {_seconds(self.detected)}, expected at most {DETECTED:g} s")
        for pipeline in self.pipelines:
            if pipeline.first is None or pipeline.first > limit:
                found.append(
                    f"{pipeline.pipeline_id} predicted again after {_seconds(pipeline.first)},"
                    f" expected at most {limit:g} s"
                )
            if pipeline.doubled:
                found.append(f"{pipeline.pipeline_id} sent {pipeline.doubled} predictions twice or too late")
        return tuple(found)


def pipeline_outcome(
    pipeline_id: str, arrivals: Sequence[Arrival], fault_at: float, *, elsewhere: bool
) -> PipelineOutcome:
    """Judge what arrived of one pipeline.

    `elsewhere`: the replacement runs on another device; otherwise it is what comes after the interruption.
    """
    before = [each for each in arrivals if each.at <= fault_at]
    around = [*before[-1:], *(each for each in arrivals if each.at > fault_at)]
    gaps = [(later.at - earlier.at, later) for earlier, later in itertools.pairwise(around)]
    longest = max(gaps, key=lambda gap: gap[0], default=None)
    here = before[-1].device if before else None
    moved = next((each for each in around if here is not None and each.device != here), None)
    back = moved if elsewhere else longest[1] if longest is not None else None
    return PipelineOutcome(
        pipeline_id=pipeline_id,
        first=None if back is None else round(back.at - fault_at, 3),
        interruption=0.0 if longest is None else round(longest[0], 3),
        lost=_lost(each.key for each in arrivals),
        doubled=_doubled(each.key for each in arrivals),
        moved=moved is not None,
    )


def _doubled(keys: Iterable[Key]) -> int:
    highest: Key | None = None
    count = 0
    for key in keys:
        if highest is not None and key <= highest:
            count += 1
        else:
            highest = key
    return count


def _lost(keys: Iterable[Key]) -> int:
    """Missing numbers between those that arrived of one process."""
    rising: list[Key] = []
    for key in keys:
        if not rising or key > rising[-1]:
            rising.append(key)
    pairs = itertools.pairwise(rising)
    return sum(later[2] - earlier[2] - 1 for earlier, later in pairs if earlier[:2] == later[:2])


def _seconds(value: float | None) -> str:
    return "no time" if value is None else f"{value:.1f} s"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all reach. `values` is not empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-round(share * 1000) * len(ordered) // 1000) - 1))]
