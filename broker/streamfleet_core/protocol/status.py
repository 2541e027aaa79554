"""The `stat` documents: the whole present state of one pipeline, or of one device, every second.

The same documents go out on PUB and are served over HTTP, so that a figure means one thing everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta
from typing_extensions import TypedDict

from streamfleet_core.protocol.limits import MAX_CAPACITY, MAX_SOURCES
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.values import (
    DesiredStatus,
    Finite,
    Id,
    Natural,
    ObservedState,
    PipelineSpec,
)

# Why there is no picture.
SourceCause = Literal[
    "refused",  # nobody listens there
    "unreachable",  # no such host, no way to it
    "timeout",  # no answer, or no frame for too long
    "authentication",
    "not_found",
    "codec",  # it is there, and cannot be decoded
    "undecodable",  # frames come, and none can be shown: no keyframe, or all are damaged
    "ended",  # the other side closed the stream
    "invalid",  # the reference or one of its properties
    "internal",  # a bug of ours
]


Counts = Annotated[dict[str, Natural], Meta(max_length=64)]  # by cause, or by sink
Scalar = str | int | Finite | bool | None


# The original's status report. What else stands in it is not looked at.


class StatusUpdate(TypedDict, total=False):
    """One thing that happened; several that are the same have `times` and `since`."""

    timestamp: str
    severity: int
    event_type: str
    payload: Annotated[dict[str, Scalar], Meta(max_length=16)]
    context: str
    times: int
    since: str


class LatencyReport(TypedDict, total=False):
    """The latencies of one source, in seconds."""

    source_id: int | None
    frame_decoding_latency: Finite | None
    inference_latency: Finite | None
    e2e_latency: Finite | None


class SourceMetadata(TypedDict, total=False):
    """What a source is, and how its frames are taken."""

    source_properties: Annotated[dict[str, Scalar], Meta(max_length=32)] | None
    source_reference: str | int | None
    buffer_size: int
    state: str
    buffer_filling_strategy: str | None
    buffer_consumption_strategy: str | None
    source_id: int | None


class StatusReport(TypedDict, total=False):
    """Its four keys."""

    video_source_status_updates: Annotated[list[StatusUpdate], Meta(max_length=512)]
    latency_reports: Annotated[list[LatencyReport], Meta(max_length=MAX_SOURCES)]
    inference_throughput: Finite
    sources_metadata: Annotated[list[SourceMetadata], Meta(max_length=MAX_SOURCES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStat:
    """One source of a pipeline. Counters only rise while (generation, incarnation) stays."""

    source_id: int
    reference: str | int  # without credentials, query and fragment
    state: str  # the original's names: NOT_STARTED, INITIALISING, RUNNING, PAUSED, MUTED, ENDED, ERROR, …
    received: Natural = 0  # frames grabbed
    decoded: Natural = 0  # those of which there was a picture
    inferred: Natural = 0
    emitted: Natural = 0
    dropped: Counts = field(default_factory=dict)  # by cause
    attempts: Natural = 0  # to connect that failed, since the last success
    failures: Natural = 0  # the same and the connections that were lost, in all
    cause: SourceCause | None = None  # of the last failed attempt, in a word; None: there is a picture
    reason: str = ""  # the same for people
    last_frame_age: Finite | None = None  # seconds; None before the first
    fps: Finite = 0.0  # emitted frames a second over the last seconds; falls to 0 when they stop
    width: Natural = 0  # pixels of the last frame; 0 before the first
    height: Natural = 0
    latency: Finite | None = (
        None  # seconds from the capture of a frame to its emission, mean of the last ones
    )
    frozen_for: Finite | None = None  # seconds without any change in a live picture; None: it moves


@dataclass(frozen=True, slots=True)
class SampleStat:
    """The frames of a pipeline that are kept for labelling. Counters only rise while `incarnation` stays."""

    picked: Natural = 0
    written: Natural = 0
    dropped: Counts = field(default_factory=dict)  # picked and not written, by cause
    error: str = ""  # why the last one could not be written; "" when it could


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStat:
    """One pipeline. `report` is the original's status report, key by key."""

    pipeline_id: Id
    device: Id
    generation: Natural
    incarnation: Natural
    desired_status: DesiredStatus
    state: ObservedState
    reason: str
    restarts: Natural
    fps: Finite  # emitted frames a second over the last seconds; falls to 0 when they stop
    sources: Annotated[tuple[SourceStat, ...], Meta(max_length=MAX_SOURCES)]
    dropped: Counts  # emitted but not delivered, by sink
    report: StatusReport
    at: Finite  # Unix seconds
    last_crash: str = ""  # why it was restarted last, though it may run again; redacted
    samples: SampleStat | None = None  # None: no frame is kept, and none was


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStat:
    """One engine of a device."""

    digest: str  # of the model's manifest
    state: str
    reason: str = ""
    inferences: Natural = 0
    restarts: Natural = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStat:
    """One device."""

    device: Id
    session: str  # the state of the worker's session with the broker
    capacity: Annotated[int, Meta(ge=0, le=MAX_CAPACITY)]
    pipelines: Natural
    engines: Annotated[tuple[EngineStat, ...], Meta(max_length=MAX_CAPACITY)]
    at: Finite  # Unix seconds
    cores: Natural = 0
    load: Finite = 0.0  # processes that run or are ready to, over the last minute
    memory: Natural = 0  # bytes that the machine has
    memory_available: Natural = 0  # bytes that programs may still have


def silent_sources(spec: PipelineSpec, state: str) -> tuple[SourceStat, ...]:
    """The sources of a pipeline whose camera has said nothing; `state` is the original's name of one."""
    return tuple(
        SourceStat(source_id=number, reference=sanitised(source.reference), state=state)
        for number, source in enumerate(spec.sources)
    )


def empty_report(spec: PipelineSpec, state: str) -> StatusReport:
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
