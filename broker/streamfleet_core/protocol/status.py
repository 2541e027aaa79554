"""The `stat` documents: the complete state of one pipeline or one device, published every second or two.

The same documents are published on PUB and served over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta
from typing_extensions import TypedDict

from streamfleet_core.protocol.limits import (
    MAX_BATCH_DELAY,
    MAX_BATCHED,
    MAX_BOARD,
    MAX_CAPACITY,
    MAX_SOURCES,
    MAX_STAGES,
)
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.tasks.optimisation import OptimisationStat
from streamfleet_core.protocol.tasks.trials import ShadowStat
from streamfleet_core.protocol.values import (
    DesiredStatus,
    Finite,
    Id,
    ModelId,
    Natural,
    ObservedState,
    PipelineSpec,
    Reason,
)

# Why there is no picture.
SourceCause = Literal[
    "refused",  # no server listens there
    "unreachable",  # unknown host, or no route to it
    "timeout",  # no answer, or no frame in time
    "authentication",
    "not_found",
    "codec",  # it exists, but cannot be decoded
    "undecodable",  # frames arrive, but none can be decoded: no keyframe, or all are damaged
    "ended",  # the server closed the stream
    "invalid",  # the reference or one of its properties
    "internal",  # an internal error
]


Temperature = Annotated[float, Meta(ge=-100, le=200)]  # °C
Counts = Annotated[dict[str, Natural], Meta(max_length=64)]  # by cause, or by sink
Scalar = str | int | Finite | bool | None


# Roboflow's status report. Other keys are ignored.


class StatusUpdate(TypedDict, total=False):
    """An event. Repeated events are merged, with `times` and `since`."""

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
    """The properties of a source and its buffer."""

    source_properties: Annotated[dict[str, Scalar], Meta(max_length=32)] | None
    source_reference: str | int | None
    buffer_size: int
    state: str
    buffer_filling_strategy: str | None
    buffer_consumption_strategy: str | None
    source_id: int | None


class StatusReport(TypedDict, total=False):
    """The status report with its four keys."""

    video_source_status_updates: Annotated[list[StatusUpdate], Meta(max_length=512)]
    latency_reports: Annotated[list[LatencyReport], Meta(max_length=MAX_SOURCES)]
    inference_throughput: Finite
    sources_metadata: Annotated[list[SourceMetadata], Meta(max_length=MAX_SOURCES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStat:
    """One source of a pipeline. Counters never decrease within the same (generation, incarnation)."""

    source_id: int
    reference: str | int  # without credentials, query and fragment
    state: str  # Roboflow's names: NOT_STARTED, INITIALISING, RUNNING, PAUSED, MUTED, ENDED, ERROR, …
    received: Natural = 0  # frames grabbed
    decoded: Natural = 0  # frames decoded to a picture
    inferred: Natural = 0
    emitted: Natural = 0
    dropped: Counts = field(default_factory=dict)  # by cause
    attempts: Natural = 0  # failed attempts to connect since the last success
    failures: Natural = 0  # total of failed attempts and lost connections
    cause: SourceCause | None = None  # of the last failure; None: there is a picture
    reason: str = ""  # the same for users
    last_frame_age: Finite | None = None  # seconds; None before the first
    fps: Finite = 0.0  # emitted frames per second over the last seconds; falls to 0 when they stop
    width: Natural = 0  # pixels of the last frame; 0 before the first
    height: Natural = 0
    latency: Finite | None = None  # seconds from capture to emission, mean of the last frames
    frozen_for: Finite | None = None  # seconds without any change of a live picture; None: it changes
    # In use: software, or a kind of hardware and its element; "" if nothing is decoded.
    decoder: Annotated[str, Meta(max_length=64)] = ""
    decoder_note: str = ""  # why it is not the desired decoder, or was started again
    objects: Natural = 0  # found in the emitted frames; a classified frame counts as one


@dataclass(frozen=True, slots=True)
class SampleStat:
    """The samples of a pipeline. Counters never decrease within the same `incarnation`."""

    picked: Natural = 0
    written: Natural = 0
    dropped: Counts = field(default_factory=dict)  # picked but not written, by cause
    error: str = ""  # why the last one could not be written; "" if it was


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStat:
    """The objects on which a stage of a pipeline was to run, since the camera process started."""

    name: Id
    inferred: Natural
    late: Natural  # whose frame went on without them
    failed: Natural  # whose inference failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveModel:
    """The model that a pipeline uses. It is the former one until the desired one is ready."""

    id: ModelId
    crashes: Natural = 0  # of its engine on this device, since the pipeline was given it
    trouble: Reason = ""  # why the desired model can never be used, so that this one goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStat:
    """One pipeline. `report` is Roboflow's status report."""

    pipeline_id: Id
    device: Id
    generation: Natural
    incarnation: Natural
    desired_status: DesiredStatus
    state: ObservedState
    reason: str
    restarts: Natural
    fps: Finite  # emitted frames per second over the last seconds; falls to 0 when they stop
    sources: Annotated[tuple[SourceStat, ...], Meta(max_length=MAX_SOURCES)]
    dropped: Counts  # emitted but not delivered, by sink
    report: StatusReport
    at: Finite  # Unix seconds
    last_crash: str = ""  # why it was last restarted, even if it runs again; redacted
    samples: SampleStat | None = None  # None: sampling was never enabled
    stages: Annotated[tuple[StageStat, ...], Meta(max_length=MAX_STAGES)] = ()
    active_model: ActiveModel | None = None  # None: from a worker that does not tell it
    shadow: ShadowStat | None = None  # None: it has none


@dataclass(frozen=True, slots=True)
class MissingAccelerator:
    """An accelerator that a device should have, and that a model does not run on."""

    reason: str  # for users: why not
    remedy: str  # for users: what to do, often a command


# given: by an option of the worker; measured: when the device first loaded the model.
BatchingOrigin = Literal["given", "measured", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingStat:
    """How an engine runs frames together on an accelerator."""

    max_batch: Annotated[int, Meta(ge=1, le=MAX_BATCHED)]  # frames of one run
    max_delay: Annotated[float, Meta(ge=0, le=MAX_BATCH_DELAY)]  # seconds that a frame waits for others
    max_batch_origin: BatchingOrigin
    max_delay_origin: BatchingOrigin


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStat:
    """One engine of a device."""

    digest: str  # of the model's manifest
    state: str
    reason: str = ""
    inferences: Natural = 0
    restarts: Natural = 0
    provider: str = ""  # what runs the model: CPUExecutionProvider, …; "" before it is loaded
    missing_accelerator: MissingAccelerator | None = None  # None: none is expected, or it runs the model
    activity: str = ""  # for users: what it does beside, as building a plan of TensorRT
    batching: BatchingStat | None = None  # None: frames run one by one, as on a CPU
    variant: str = ""  # the precision of the variant that runs; "": the model itself
    variant_trouble: str = ""  # for users: why the variant for this board does not run
    model: str = ""  # the id by which a pipeline knows it; "" from an older worker


@dataclass(frozen=True, slots=True)
class ClockStat:
    """How good the clock of a device is, as its kernel says."""

    synchronised: bool  # whether a time server, or another program, sets it
    max_error: Finite  # seconds by which it is wrong, at most; without meaning if it is not synchronised


@dataclass(frozen=True, slots=True)
class KeepingStat:
    """Where a device keeps the predictions that it has sent."""

    where: Literal["memory", "disk"]
    trouble: Reason = ""  # for users: why they are not kept at the moment, or not on disk; "": they are


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
    load: Finite = 0.0  # running and runnable processes, average over the last minute
    memory: Natural = 0  # bytes of the machine or container
    memory_available: Natural = 0  # bytes that programs can still use
    missing_accelerator: MissingAccelerator | None = None  # of its models, or of the last one that failed
    temperature: Temperature | None = None  # of the hottest zone; None: unknown
    throttled: bool | None = None  # whether heat or too little power slows it down; None: unknown
    throttle_reason: Reason = ""  # for users
    gpu_load: Annotated[float, Meta(ge=0, le=1)] | None = None
    gpu_power_watts: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    disk: Natural = 0  # bytes of the file system of its data directory; 0: unknown
    disk_available: Natural = 0  # bytes
    board: Annotated[str, Meta(max_length=MAX_BOARD)] = ""  # its kind, for variants of models; "": unknown
    optimisation: OptimisationStat | None = None  # None: it was asked for none
    clock: ClockStat | None = None  # None: unknown
    keeping: KeepingStat | None = None  # of sent predictions; None: unknown


def silent_sources(spec: PipelineSpec, state: str) -> tuple[SourceStat, ...]:
    """The sources of a pipeline without a report of its camera; `state` is one of Roboflow's."""
    return tuple(
        SourceStat(source_id=number, reference=sanitised(source.reference), state=state)
        for number, source in enumerate(spec.sources)
    )


def empty_report(spec: PipelineSpec, state: str) -> StatusReport:
    """Roboflow's status report without a report of a camera; `state` is one of Roboflow's."""
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
