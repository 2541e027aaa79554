"""What a camera says of itself to the agent. Pure: made from what its metrics say and a few facts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamfleet_core.protocol.source_reference import cut_reason
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import ObservedState

_LOST = ("ERROR", "RESTARTING")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What of one source bears on the state of its pipeline."""

    state: str  # Roboflow's name
    attempts: int  # to open it that failed since the last success
    over: bool = False  # it is finite, and every frame of it has been emitted
    failed: bool = False  # it cannot be opened, and will not heal by itself
    overdue: bool = False  # it has been opened for longer than that usually takes

    @property
    def lost(self) -> bool:
        """It had a picture or should have one, and is tried again."""
        return not self.over and (self.state in _LOST or self.attempts > 0 or self.overdue)

    @property
    def in_view(self) -> bool:
        """There is a picture, or the last frames of one are still under way."""
        return not self.over and not self.lost and self.state in ("RUNNING", "ENDED")


def observed_state(sources: Sequence[SourceFacts], *, paused: bool, engine_met: bool) -> ObservedState:
    """The pipeline's state, from those of its sources: one that runs is enough to say that it runs."""
    if all(source.over for source in sources):
        return ObservedState.ENDED
    if paused:
        return ObservedState.PAUSED
    if any(source.in_view for source in sources):
        return ObservedState.RUNNING if engine_met else ObservedState.STARTING
    if all(source.over or source.failed for source in sources):
        return ObservedState.FAILED
    if any(source.lost for source in sources):
        return ObservedState.RECONNECTING
    return ObservedState.STARTING


def shown_source_state(source_state: str, *, finite: bool, paused: bool, done: bool) -> str:
    """The source's state as people see it: a file is paused where a live source is muted."""
    if source_state == "ENDED" and not done:
        source_state = "RUNNING"
    if source_state == "RUNNING" and paused:
        return "PAUSED" if finite else "MUTED"
    return source_state


def reason_of(sources: Sequence[SourceStat]) -> str:
    """What is wrong with the sources, for people; which of several it is, stands before it."""
    if len(sources) == 1:
        return sources[0].reason
    reasons = (f"source {source.source_id}: {source.reason}" for source in sources if source.reason)
    return cut_reason("; ".join(reasons))


def status_report(
    *,
    events: list[dict[str, Any]],
    latencies: list[dict[str, Any]],
    throughput: float,
    metadata: list[dict[str, Any]],
) -> dict[str, Any]:
    """Roboflow's status report: these four keys, in this order."""
    return {
        "video_source_status_updates": events,
        "latency_reports": latencies,
        "inference_throughput": throughput,
        "sources_metadata": metadata,
    }


def source_metadata(
    source: SourceStat,
    *,
    properties: dict[str, Any] | None,
    buffer_size: int,
    filling: str,
    consumption: str,
) -> dict[str, Any]:
    """One entry of Roboflow's `sources_metadata`. Some containers declare a rate that is no number."""
    return {
        "source_properties": None if properties is None else {k: _finite(v) for k, v in properties.items()},
        "source_reference": source.reference,
        "buffer_size": buffer_size,
        "state": source.state,
        "buffer_filling_strategy": filling,
        "buffer_consumption_strategy": consumption,
        "source_id": source.source_id,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
