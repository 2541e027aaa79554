"""The part of a status that metrics tell. Decoding nothing else takes a third of the time."""

from __future__ import annotations

import msgspec
from typing_extensions import TypedDict

from streamfleet_core.protocol.status import Counts, LatencyReport, SourceMetadata
from streamfleet_core.protocol.values import Finite, Id, Natural


class SourceSummary(msgspec.Struct, frozen=True, gc=False):
    """One source, with the fields of a `SourceStat`."""

    source_id: int
    state: str
    received: Natural = 0
    decoded: Natural = 0
    inferred: Natural = 0
    emitted: Natural = 0
    dropped: Counts = {}
    attempts: Natural = 0
    failures: Natural = 0
    last_frame_age: Finite | None = None
    fps: Finite = 0.0
    latency: Finite | None = None
    frozen_for: Finite | None = None
    decoder: str = ""


class ReportSummary(TypedDict, total=False):
    """Of Roboflow's status report."""

    latency_reports: list[LatencyReport]
    sources_metadata: list[SourceMetadata]


class PipelineSummary(msgspec.Struct, frozen=True, gc=False):
    """One pipeline, with the fields of a `PipelineStat`."""

    pipeline_id: Id
    sources: tuple[SourceSummary, ...]
    dropped: Counts
    report: ReportSummary
