"""What a camera says of itself to the agent. Pure: made from what its ledgers say and a few facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamfleet_broker.protocol.status import SourceStat
from streamfleet_broker.protocol.values import ObservedState

_LOST = ("ERROR", "RESTARTING")


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What of one source bears on the state of its pipeline."""

    state: str  # the original's name
    attempts: int  # to open it that failed since the last success
    over: bool = False  # it is finite, and every frame of it has been emitted

    @property
    def lost(self) -> bool:
        """It had a picture or should have one, and is tried again."""
        return not self.over and (self.state in _LOST or self.attempts > 0)

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
    return "; ".join(f"source {source.source_id}: {source.reason}" for source in sources if source.reason)


def status_report(
    *,
    events: list[dict[str, Any]],
    latencies: list[dict[str, Any]],
    throughput: float,
    metadata: list[dict[str, Any]],
) -> dict[str, Any]:
    """The original's status report: these four keys, in this order."""
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
    """One entry of the original's `sources_metadata`."""
    return {
        "source_properties": properties,
        "source_reference": source.reference,
        "buffer_size": buffer_size,
        "state": source.state,
        "buffer_filling_strategy": filling,
        "buffer_consumption_strategy": consumption,
        "source_id": source.source_id,
    }
