"""The `stat` documents: the whole present state of one pipeline, or of one device, every second.

The same documents go out on PUB and are served over HTTP, so that a figure means one thing everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from streamfleet_broker.protocol.reference import sanitised
from streamfleet_broker.protocol.values import Id, Natural, ObservedState, PipelineSpec, Want

# Why there is no picture.
SourceCause = Literal[
    "refused",  # nobody listens there
    "unreachable",  # no such host, no way to it
    "timeout",  # no answer, or no frame for too long
    "authentication",
    "not_found",
    "codec",  # it is there, and cannot be decoded
    "ended",  # the other side closed the stream
    "invalid",  # the reference or one of its properties
    "internal",  # a bug of ours
]


@dataclass(frozen=True, slots=True)
class SourceStat:
    """One source of a pipeline. Counters only rise while (gen, inc) stays."""

    source_id: int
    reference: str | int  # without credentials, query and fragment
    state: str  # the original's names: NOT_STARTED, INITIALISING, RUNNING, PAUSED, MUTED, ENDED, ERROR, …
    received: Natural = 0  # frames grabbed
    decoded: Natural = 0  # those of which there was a picture
    inferred: Natural = 0
    emitted: Natural = 0
    dropped: dict[str, int] = field(default_factory=dict)  # by cause
    attempts: Natural = 0  # to connect that failed, since the last success
    failures: Natural = 0  # the same and the connections that were lost, in all
    cause: SourceCause | None = None  # of the last failed attempt, in a word; None: there is a picture
    reason: str = ""  # the same for people
    last_frame_age: float | None = None  # seconds; None before the first
    fps: float = 0.0  # emitted frames a second over the last seconds; falls to 0 when they stop
    width: Natural = 0  # pixels of the last frame; 0 before the first
    height: Natural = 0
    latency: float | None = None  # seconds from the capture of a frame to its emission, mean of the last ones
    still_for: float | None = None  # seconds for which a live picture has not changed at all; None: it moves


@dataclass(frozen=True, slots=True)
class SampleStat:
    """The frames of a pipeline that are kept for labelling. Counters only rise while `inc` stays."""

    picked: Natural = 0
    written: Natural = 0
    dropped: dict[str, int] = field(default_factory=dict)  # picked and not written, by cause
    error: str = ""  # why the last one could not be written; "" when it could


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
    last_crash: str = ""  # why it was restarted last, though it may run again; redacted
    samples: SampleStat | None = None  # None: no frame is kept, and none was


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
    cores: Natural = 0
    load: float = 0.0  # processes that run or want to, over the last minute
    memory: Natural = 0  # bytes that the machine has
    memory_available: Natural = 0  # bytes that programs may still have


def silent_sources(spec: PipelineSpec, state: str) -> tuple[SourceStat, ...]:
    """The sources of a pipeline whose camera has said nothing; `state` is the original's name of one."""
    return tuple(
        SourceStat(number, sanitised(source.reference), state) for number, source in enumerate(spec.sources)
    )


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
