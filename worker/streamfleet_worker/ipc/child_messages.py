"""The messages between the agent and its child processes, over one pipe per child.

A child gets its config at its start. It sends a report at every change of state, and at least every
`REPORT_INTERVAL` seconds, so that silence means that the child is stuck. The agent sends changes.
Messages are not pickled: a message is a msgpack array of its name and its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import msgpack

from streamfleet_core.protocol.sampling import Dataset
from streamfleet_core.protocol.status import (
    BatchingStat,
    KeepingStat,
    MissingAccelerator,
    SampleStat,
    SourceStat,
    StageStat,
)
from streamfleet_core.protocol.tasks.trials import ShadowCounts
from streamfleet_core.protocol.values import (
    CurveKey,
    DecoderChoice,
    DesiredStatus,
    Keep,
    Manifest,
    Natural,
    ObservedState,
    PipelineSpec,
    Variant,
    from_plain,
    to_plain,
)

REPORT_INTERVAL = 1.0  # seconds


def next_report_after(now: float) -> float:
    """Return when the next report is due. Pure.

    All children report at the same moments: the agent wakes once for all of them, and handles the others
    while its code and data are still in the caches of the processor.

    Args:
        now: seconds of the monotonic clock, which all processes share.
    """
    return (now // REPORT_INTERVAL + 1) * REPORT_INTERVAL


# Whether models run on an accelerator: they must, they should if there is one, or they must not.
AcceleratorUse = Literal["require", "prefer", "cpu"]
# What runs them; auto: TensorRT, then CUDA.
ProviderName = Literal["auto", "tensorrt", "cuda", "openvino"]


# configs of children -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PostProcessing:
    """The device's defaults for pipelines, from Roboflow's environment variables."""

    confidence: float = 0.4
    iou_threshold: float = 0.3
    class_agnostic_nms: bool = False
    max_candidates: int = 3000
    max_detections: int = 300


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model of a pipeline, and the engine that runs it."""

    manifest: Manifest
    engine_socket: str  # path of the engine's unix socket


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraConfig:
    """The config of a camera process. It reads no other configuration."""

    pipeline_id: str
    device: str
    short_id: int  # of the device, for the data plane's header
    generation: int
    incarnation: int
    desired_status: DesiredStatus  # run or pause
    spec: PipelineSpec
    manifest: Manifest
    defaults: PostProcessing
    engine_socket: str  # path of the engine's unix socket
    intake_path: str  # of the publisher's unix socket
    picture_intake_path: str  # of the publisher's unix socket for previews
    progress_path: str  # file of the positions in the sources of this run, which outlives the process
    fence_path: str  # the fence, until which fenced pipelines may emit
    fenced: bool  # stop emitting when the fence closes (`on_disconnect` is stop)
    samples_path: str  # folder of all samples of the device
    samples_size: int  # limit for all of them, in bytes
    decoder: DecoderChoice = "software"  # of sources that do not choose one
    stages: tuple[ModelConfig, ...] = ()  # of the spec, in its order

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """The models with which it starts: its own, then that of each stage."""
        return (ModelConfig(self.manifest, self.engine_socket), *self.stages)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The config of an engine process."""

    manifest: Manifest
    weights_path: str
    socket_path: str  # of the unix socket for cameras
    threads: int  # inference threads of the session; 0: one per core
    accelerator: AcceleratorUse = "prefer"
    provider: ProviderName = "auto"
    plans_path: str = ""  # folder for plans of TensorRT; "": it is not used
    batches_path: str = ""  # folder for measurements of batches; "": nothing is measured
    max_batch: int | None = None  # frames of one run on an accelerator; None: as measured
    max_delay: float | None = None  # seconds that a frame waits for others of its batch; None: as measured
    variant: Variant | None = None  # to run in place of the model itself, if it can be loaded
    variant_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepConfig:
    """How many predictions a device keeps after it has sent them."""

    folder: str  # of those on disk
    memory_size: int  # bytes, without those on disk; 0: none
    disk_size: int  # bytes; 0: none
    age: float  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherConfig:
    """The config of the publisher process."""

    device: str
    intake_path: str  # of the unix socket that receives messages of cameras and of the agent
    picture_intake_path: str  # of the unix socket that receives previews
    local_endpoint: str  # ipc://, for subscribers on this host, without keys
    local_picture_endpoint: str  # the same for previews
    direct_endpoint: str  # tcp://, for subscribers on the LAN; "" for none
    public_key: str
    secret_key: str = field(repr=False)
    fence_path: str = ""
    keep: KeepConfig | None = None  # None: no predictions are kept


# agent → child --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """To a camera: emit under this generation and spec from now on, or pause.

    The camera can apply the spec without a restart (`PipelineSpec.can_update_to`).
    """

    generation: Natural
    desired_status: DesiredStatus
    spec: PipelineSpec
    # Of the pipeline, then of its stages: they take over, under this generation, as soon as the engines of
    # all of them are connected; None: that one stays. (): all stay.
    models: tuple[ModelConfig | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Compare:
    """To a camera: let another model infer some frames, too, and compare what both find."""

    model: ModelConfig | None  # None: no longer
    share: float = 0.0  # of the frames, at most
    dataset: Dataset | None = None  # of samples of frames in which both differ; None: none are kept


@dataclass(frozen=True, slots=True)
class Show:
    """To a camera: start or stop making previews."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """To any child: end within two seconds."""


@dataclass(frozen=True, slots=True)
class Relay:
    """To the publisher: publish to these endpoints of the broker, which has this key."""

    endpoints: tuple[str, ...]
    server_key: CurveKey
    pictures: tuple[str, ...] = ()  # endpoints for previews
    replays: bool = False  # whether this broker lets replays pass


@dataclass(frozen=True, slots=True)
class AllowSubscribers:
    """To the publisher: these keys may subscribe to the direct socket."""

    keys: tuple[CurveKey, ...]


@dataclass(frozen=True, slots=True)
class KeepPredictions:
    """To the publisher: what it keeps of these pipelines. None: as much as of others."""

    limits: dict[str, Keep | None]  # of each pipeline that is assigned to the device


# child → agent --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineCostReport:
    """What the inferences of an engine have cost, without those that used all threads."""

    cpu: float = 0.0  # seconds of its threads
    inferences: Natural = 0
    accelerator: float = 0.0  # seconds of an accelerator for one frame; 0 on a CPU


@dataclass(frozen=True, slots=True)
class CameraCostReport:
    """What a camera process has used since its start."""

    cpu: float = 0.0  # seconds
    frame_cpu: float = 0.0  # of it: for the frames that were inferred; the rest is for reading
    memory: Natural = 0  # bytes, a share of what it shares with others


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraReport:
    """The complete state of a camera process.

    After a report with the state `paused`, nothing is emitted until the agent requests `run` again.
    """

    generation: Natural
    state: ObservedState
    reason: str
    waiting_for_engine: bool  # no frame moves, and the cause is the engine
    emitted: Natural  # frames, since the start of the process; increases while the camera is healthy
    sources: tuple[SourceStat, ...]
    dropped: dict[str, int]  # by sink
    fps: float
    report: dict[str, Any]  # Roboflow's status report
    samples: SampleStat | None = None  # None: sampling was never enabled
    stages: tuple[StageStat, ...] = ()  # the counters of each
    ready: bool = False  # it could emit: an engine is connected, and a source delivers pictures
    cost: CameraCostReport = CameraCostReport()
    shadow: ShadowCounts | None = None  # None: no other model is compared
    source_timeout: float = 0.0  # seconds of silence after which the camera itself declares a source lost


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The complete state of an engine process."""

    state: Literal["loading", "ready", "failed", "damaged"]  # damaged: the file; fetch it again
    reason: str  # while ready: why every inference fails
    inferences: Natural
    oldest_run: float  # seconds that the longest running inference has taken; 0 without any
    provider: str = ""  # what runs the model, once it is loaded
    missing: MissingAccelerator | None = None  # an accelerator that should run it, and does not
    activity: str = ""  # what it does beside, for users
    batching: BatchingStat | None = None  # None: frames run one by one
    variant: str = ""  # the precision of the variant that runs; "": the model itself
    variant_trouble: str = ""  # why the variant that it was given does not run
    outdated: bool = False  # another engine would run the model on a better accelerator: replace this one
    cost: EngineCostReport = EngineCostReport()
    memory: Natural = 0  # bytes of the process, a share of what it shares with others


@dataclass(frozen=True, slots=True)
class PublisherReport:
    """The complete state of the publisher process."""

    published: Natural
    fenced: Natural  # messages dropped because the fence was closed
    rejected: Natural  # invalid messages
    watched: tuple[str, ...] = ()  # prefixes of `<pipeline id>/` with preview subscribers; "" means all
    cpu: float = 0.0  # seconds of the process
    keeping: KeepingStat | None = None  # None: it keeps none, or does not know yet


ToChild = Change | Compare | Show | Stop | Relay | AllowSubscribers | KeepPredictions
FromChild = CameraReport | EngineReport | PublisherReport

_TYPES: dict[str, type[ToChild | FromChild]] = {
    of.__name__: of
    for of in (
        Change,
        Compare,
        Show,
        Stop,
        Relay,
        AllowSubscribers,
        KeepPredictions,
        CameraReport,
        EngineReport,
        PublisherReport,
    )
}


def pack(message: ToChild | FromChild) -> bytes:
    """Encode a message."""
    content: bytes = msgpack.packb([type(message).__name__, to_plain(message)])
    return content


def unpack(content: bytes) -> ToChild | FromChild:
    """Decode a message."""
    name, plain = msgpack.unpackb(content)
    return from_plain(plain, _TYPES[name])


def send(connection: Connection, message: ToChild | FromChild) -> None:
    """Send a message. Raises: OSError if the other end is gone."""
    connection.send_bytes(pack(message))


def receive(connection: Connection) -> ToChild | FromChild:
    """Receive the next message. Raises: EOFError or OSError if the other end is gone."""
    return unpack(connection.recv_bytes())
