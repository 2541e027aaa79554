"""The status that a camera process reports to the agent. Pure: derived from its metrics."""

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
    """The facts about one source that determine the state of its pipeline."""

    state: str  # in Roboflow's words
    attempts: int  # failed attempts to open it since the last success
    over: bool = False  # it is finite, and all its frames were processed
    failed: bool = False  # it cannot be opened, and retrying does not help
    overdue: bool = False  # opening it takes longer than usual

    @property
    def lost(self) -> bool:
        """Whether it has failed or is overdue, and is being reopened."""
        return not self.over and (self.state in _LOST or self.attempts > 0 or self.overdue)

    @property
    def in_view(self) -> bool:
        """Whether it delivers pictures, or its last frames are still being processed."""
        return not self.over and not self.lost and self.state in ("RUNNING", "ENDED")


def observed_state(sources: Sequence[SourceFacts], *, paused: bool, engine_met: bool) -> ObservedState:
    """Derive the state of the pipeline from its sources: it runs if at least one source does."""
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
    """The state of the source as shown to users: a paused file is PAUSED, a paused live source MUTED."""
    if source_state == "ENDED" and not done:
        source_state = "RUNNING"
    if source_state == "RUNNING" and paused:
        return "PAUSED" if finite else "MUTED"
    return source_state


def reason_of(sources: Sequence[SourceStat]) -> str:
    """The reasons of the sources, for users; with several sources each is prefixed with its number."""
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
    """Roboflow's status report, with these four keys in this order."""
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
    """One entry of Roboflow's `sources_metadata`. Rates that are not finite become None."""
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
