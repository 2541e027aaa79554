"""The `stat` document of a pipeline: from its assignment, its observed state and its camera's report.

Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import msgspec

from streamfleet_core.protocol.limits import MAX_STAT_BODY
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.status import (
    ActiveModel,
    DeviceStat,
    PipelineStat,
    SourceStat,
    StatusReport,
    empty_report,
    silent_sources,
)
from streamfleet_core.protocol.tasks.trials import ShadowStat
from streamfleet_core.protocol.values import Assignment, Observed, ObservedState
from streamfleet_worker.ipc.child_messages import CameraReport

FRESH = 1.0  # seconds for which a reported figure is current
STALE = 3.0  # seconds after which it is ignored

# Roboflow's state of a source without a report of its camera.
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
# Even if the process still exists.
_DOWN = (ObservedState.CRASHED, ObservedState.BACKOFF, ObservedState.FAILED)


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
    active_model: ActiveModel | None = None,
    shadow: ShadowStat | None = None,
) -> PipelineStat:
    """Build the document of one pipeline. `alive`: its camera process exists; `at`: Unix seconds.

    `report_age`: seconds; None if the report is of an earlier camera.
    """
    if not alive and observed.state is ObservedState.STARTING:
        state = "NOT_STARTED"
    else:
        state = _SOURCE_STATES[observed.state]
    if report is None:
        sources = silent_sources(assignment.spec, state)
        report_document: dict[str, Any] = {**empty_report(assignment.spec, state)}
        fps, dropped, samples = 0.0, dict[str, int](), None
    else:
        age = report_age if alive and observed.state not in _DOWN else None
        factor = 0.0 if age is None else _freshness(age)
        sources = tuple(_as_of_now(source, factor, age) for source in report.sources)
        report_document = _faded(report.report, factor)
        fps, dropped, samples = report.fps * factor, report.dropped, report.samples
        if not alive:
            sources = tuple(replace(source, state=_state_of(source.state, state)) for source in sources)
            report_document = _in_state(report_document, state)
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
        report=cast("StatusReport", report_document),
        at=at,
        last_crash=last_crash,
        samples=samples,
        stages=report.stages if report is not None and alive else (),
        active_model=active_model,
        shadow=shadow,
    )


def encoded(stat: PipelineStat | DeviceStat) -> bytes:
    """Encode a document. If it is too large, the oldest updates are left out."""
    content = msgspec.msgpack.encode(stat)
    while len(content) > MAX_STAT_BODY and isinstance(stat, PipelineStat):
        updates = stat.report.get("video_source_status_updates", [])
        if not updates:
            break
        later = updates[len(updates) // 2 + 1 :]
        stat = replace(stat, report={**stat.report, "video_source_status_updates": later})
        content = msgspec.msgpack.encode(stat)
    return content


def _freshness(age: float) -> float:
    """1 for a current figure, falling to 0, so that an old throughput is not shown until the next report."""
    return min(1.0, max(0.0, (STALE - age) / (STALE - FRESH)))


def _as_of_now(source: SourceStat, factor: float, age: float | None) -> SourceStat:
    """Age a reported source by `age` seconds; None: it no longer works."""
    last = source.last_frame_age
    return replace(
        source,
        reference=sanitised(source.reference),
        fps=source.fps * factor,
        latency=source.latency if factor else None,
        last_frame_age=None if last is None or age is None else last + age,
        frozen_for=source.frozen_for if factor else None,
    )


def _state_of(known: str, state: str) -> str:
    """The state of a source. ENDED stays, regardless of its camera."""
    return known if known == "ENDED" else state


def _faded(report_document: dict[str, Any], factor: float) -> dict[str, Any]:
    throughput = report_document.get("inference_throughput", 0.0)
    return {**report_document, "inference_throughput": throughput * factor}


def _in_state(report_document: dict[str, Any], state: str) -> dict[str, Any]:
    sources = [
        {**source, "state": _state_of(source["state"], state)}
        for source in report_document.get("sources_metadata", ())
    ]
    return {**report_document, "sources_metadata": sources}
