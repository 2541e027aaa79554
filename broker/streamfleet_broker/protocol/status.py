"""The `stat` documents: the whole present state of one pipeline, or of one device, every second.

The same documents go out on PUB and are served over HTTP, so that a figure means one thing everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streamfleet_broker.protocol.reference import sanitised
from streamfleet_broker.protocol.values import Id, Natural, ObservedState, PipelineSpec, Want


@dataclass(frozen=True, slots=True)
class SourceStat:
    """One source of a pipeline. Counters only rise while (gen, inc) stays."""

    source_id: int
    reference: str | int  # without credentials, query and fragment
    state: str  # the original's names: NOT_STARTED, INITIALISING, RUNNING, PAUSED, MUTED, ENDED, ERROR, …
    received: Natural = 0  # frames grabbed
    inferred: Natural = 0
    emitted: Natural = 0
    dropped: dict[str, int] = field(default_factory=dict)  # by cause
    attempts: Natural = 0  # to connect, since the last success
    reason: str = ""  # of the last failed attempt
    last_frame_age: float | None = None  # seconds; None before the first


@dataclass(frozen=True, slots=True)
class PipelineStat:
    """One pipeline. `report` is the original's status report, key by key."""

    pipeline_id: Id
    device: Id
    gen: Natural
    inc: Natural
    want: Want
    state: ObservedState
    reason: str
    restarts: Natural
    fps: float  # emitted frames a second over the last seconds; falls to 0 when they stop
    sources: tuple[SourceStat, ...]
    dropped: dict[str, int]  # emitted but not delivered, by sink
    report: dict[str, Any]
    at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class EngineStat:
    """One engine of a device."""

    digest: str  # of the model's manifest
    state: str
    reason: str = ""
    inferences: Natural = 0
    restarts: Natural = 0


@dataclass(frozen=True, slots=True)
class DeviceStat:
    """One device."""

    device: Id
    session: str  # the state of the worker's session with the broker
    capacity: Natural
    pipelines: Natural
    engines: tuple[EngineStat, ...]
    at: float  # Unix seconds


def empty_report(spec: PipelineSpec, state: str) -> dict[str, Any]:
    """The original's four keys where no camera has filled them; `state` is the original's name of one."""
    return {
        "video_source_status_updates": [],
        "latency_reports": [
            {
                "source_id": number,
                "frame_decoding_latency": None,
                "inference_latency": None,
                "e2e_latency": None,
            }
            for number, _ in enumerate(spec.sources)
        ],
        "inference_throughput": 0.0,
        "sources_metadata": [
            {
                "source_properties": None,
                "source_reference": sanitised(source.reference),
                "buffer_size": 0,
                "state": state,
                "buffer_filling_strategy": None,
                "buffer_consumption_strategy": None,
                "source_id": number,
            }
            for number, source in enumerate(spec.sources)
        ],
    }
