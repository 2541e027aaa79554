"""The `stat` document of a pipeline, of what is desired, what is observed and what its camera said. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import msgspec

from streamfleet_core.protocol.data_plane import MAX_STAT
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.status import (
    DeviceStat,
    PipelineStat,
    SourceStat,
    StatusReport,
    empty_report,
    silent_sources,
)
from streamfleet_core.protocol.values import Assignment, Observed, ObservedState
from streamfleet_worker.ipc.child_messages import CameraReport

FRESH = 1.0  # seconds for which a figure is believed after it was reported
STALE = 3.0  # seconds after which it is worth nothing

# What the original would say of a source whose camera has said nothing.
_SOURCE_STATES: dict[ObservedState, str] = {
    ObservedState.STARTING: "INITIALISING",
    ObservedState.RUNNING: "RUNNING",
    ObservedState.PAUSED: "PAUSED",
    ObservedState.RECONNECTING: "INITIALISING",
    ObservedState.CRASHED: "ERROR",
    ObservedState.BACKOFF: "ERROR",
    ObservedState.FAILED: "ERROR",
    ObservedState.STOPPING: "TERMINATING",
    ObservedState.ENDED: "ENDED",
}
_DOWN = (ObservedState.CRASHED, ObservedState.BACKOFF, ObservedState.FAILED)  # though the process may linger


def pipeline_stat(
    assignment: Assignment,
    observed: Observed,
    report: CameraReport | None,
    *,
    device: str,
    alive: bool,
    report_age: float | None,
    at: float,
    last_crash: str,
) -> PipelineStat:
    """One pipeline. `alive`: its camera's process exists; `at`: Unix seconds.

    `report_age`: seconds, None when the report is of a camera before this one.
    """
    if not alive and observed.state is ObservedState.STARTING:
        state = "NOT_STARTED"
    else:
        state = _SOURCE_STATES[observed.state]
    if report is None:
        sources = silent_sources(assignment.spec, state)
        original: dict[str, Any] = {**empty_report(assignment.spec, state)}
        fps, dropped, samples = 0.0, dict[str, int](), None
    else:
        age = report_age if alive and observed.state not in _DOWN else None
        factor = 0.0 if age is None else _freshness(age)
        sources = tuple(_as_of_now(source, factor, age) for source in report.sources)
        original = _faded(report.report, factor)
        fps, dropped, samples = report.fps * factor, report.dropped, report.samples
        if not alive:
            sources = tuple(replace(source, state=_still(source.state, state)) for source in sources)
            original = _in_state(original, state)
    return PipelineStat(
        pipeline_id=assignment.pipeline_id,
        device=device,
        generation=observed.generation,
        incarnation=observed.incarnation,
        desired_status=assignment.desired_status,
        state=observed.state,
        reason=observed.reason,
        restarts=observed.restarts,
        fps=fps,
        sources=sources,
        dropped=dropped,
        report=cast("StatusReport", original),
        at=at,
        last_crash=last_crash,
        samples=samples,
    )


def encoded(stat: PipelineStat | DeviceStat) -> bytes:
    """As it travels. Where there is no room for all, the oldest updates go."""
    content = msgspec.msgpack.encode(stat)
    while len(content) > MAX_STAT and isinstance(stat, PipelineStat):
        updates = stat.report.get("video_source_status_updates", [])
        if not updates:
            break
        later = updates[len(updates) // 2 + 1 :]
        stat = replace(stat, report={**stat.report, "video_source_status_updates": later})
        content = msgspec.msgpack.encode(stat)
    return content


def _freshness(age: float) -> float:
    """1 for a fresh figure, falling to 0: the original's last throughput stood for ever."""
    return min(1.0, max(0.0, (STALE - age) / (STALE - FRESH)))


def _as_of_now(source: SourceStat, factor: float, age: float | None) -> SourceStat:
    """What a camera said of a source so many seconds ago; None: it does not work any more."""
    last = source.last_frame_age
    return replace(
        source,
        reference=sanitised(source.reference),
        fps=source.fps * factor,
        latency=source.latency if factor else None,
        last_frame_age=None if last is None or age is None else last + age,
        frozen_for=source.frozen_for if factor else None,
    )


def _still(known: str, state: str) -> str:
    """A source that has come to its end stays there, whatever becomes of its camera."""
    return known if known == "ENDED" else state


def _faded(original: dict[str, Any], factor: float) -> dict[str, Any]:
    throughput = original.get("inference_throughput", 0.0)
    return {**original, "inference_throughput": throughput * factor}


def _in_state(original: dict[str, Any], state: str) -> dict[str, Any]:
    sources = [
        {**source, "state": _still(source["state"], state)} for source in original.get("sources_metadata", ())
    ]
    return {**original, "sources_metadata": sources}
