"""What a drill showed, from the messages that arrived. Pure.

A message is doubled if its key is not above all keys of its pipeline before: two processes emitted it, or one
that should have stopped. Nothing is lost on the way if the numbers within one process have no gap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamfleet_core.protocol.messages import DrillFault

Key = tuple[int, int, int]

KNOWN = 10.5  # seconds at most until the fleet knows that a device is lost
ELSEWHERE = 15.0  # seconds at most until the first prediction of another device
RESTARTED = 10.0  # the same after one process was killed
NOTICED = 0.5  # seconds without predictions, which are an interruption


@dataclass(frozen=True, slots=True)
class Arrival:
    """A prediction that arrived."""

    at: float  # monotonic seconds
    key: Key
    device: int  # short id


@dataclass(frozen=True, slots=True)
class Targets:
    """What a drill must reach, in seconds."""

    first: float  # until the first prediction of the replacement
    known: float | None = None  # until the fleet knows of it; None: no event has to tell

    @classmethod
    def of(cls, fault: DrillFault, known: float | None = None, first: float | None = None) -> Targets:
        """The targets for a fault, where no others were chosen."""
        if fault != "isolate":
            return cls(first=first or RESTARTED)
        return cls(first=first or ELSEWHERE, known=known or KNOWN)


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

    fault: DrillFault
    device: str
    at: str  # local time, ISO 8601
    detected: float | None  # seconds until the fleet told of it; None: it did not
    targets: Targets
    pipelines: tuple[PipelineOutcome, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What was worse than its target."""
        found = []
        known, first = self.targets.known, self.targets.first
        if known is not None and (self.detected is None or self.detected > known):
            told = "never" if self.detected is None else f"after {self.detected:.1f} s"
            found.append(f"the fleet knew of it {told}, expected within {known:g} s")
        for pipeline in self.pipelines:
            if pipeline.first is None or pipeline.first > first:
                when = "never" if pipeline.first is None else f"after {pipeline.first:.1f} s"
                found.append(f"{pipeline.pipeline_id} predicted again {when}, expected within {first:g} s")
            if pipeline.doubled:
                found.append(f"{pipeline.pipeline_id} sent {pipeline.doubled} predictions twice or too late")
        return tuple(found)


def pipeline_outcome(
    pipeline_id: str, arrivals: Sequence[Arrival], fault_at: float, until: float, *, elsewhere: bool
) -> PipelineOutcome:
    """Judge what arrived of one pipeline.

    `until`: when it was last looked. `elsewhere`: the replacement runs on another device; otherwise it is
    what comes after the first interruption, or what comes next if there was none.
    """
    before = [each for each in arrivals if each.at <= fault_at]
    after = [each for each in arrivals if each.at > fault_at]
    around = [*before[-1:], *after]
    gaps = [(later.at - earlier.at, later) for earlier, later in itertools.pairwise(around)]
    silence = until - around[-1].at if around else until - fault_at
    here = before[-1].device if before else None
    moved = next((each for each in after if here is not None and each.device != here), None)
    if elsewhere:
        back = moved
    else:
        usual = max((later.at - each.at for each, later in itertools.pairwise(before)), default=0.0)
        noticed = max(NOTICED, 3 * usual)
        interrupted = (later for gap, later in gaps if gap > noticed)
        back = next(interrupted, None if silence > noticed else next(iter(after), None))
    return PipelineOutcome(
        pipeline_id=pipeline_id,
        first=None if back is None else round(back.at - fault_at, 3),
        interruption=round(max([silence, *(gap for gap, _ in gaps)]), 3),
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


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all reach. `values` is not empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-round(share * 1000) * len(ordered) // 1000) - 1))]
