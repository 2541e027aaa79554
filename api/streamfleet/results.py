"""Results of the API: immutable values, decoded from JSON and validated.

Times are Unix seconds and durations are seconds, unless a field says otherwise. A metric is None until a
device has reported it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamfleet_core.protocol.status import (
    BatchingStat,
    ClockStat,
    DeviceStat,
    EngineStat,
    KeepingStat,
    MissingAccelerator,
    PipelineStat,
    SampleStat,
    SourceStat,
)
from streamfleet_core.protocol.tasks.optimisation import OptimisationStat
from streamfleet_core.protocol.values import Keep, ModelRef, Motion, SourceSpec, Variant, Weights

__all__ = [
    "AddedModel",
    "AppliedObject",
    "ApplyResult",
    "BatchingStat",
    "ClockStat",
    "CommandResult",
    "Dataset",
    "Device",
    "DeviceStat",
    "EngineStat",
    "Event",
    "FieldChange",
    "FileCard",
    "Health",
    "JoinToken",
    "Keep",
    "KeepingStat",
    "MissingAccelerator",
    "Model",
    "ModelCard",
    "ModelRef",
    "Motion",
    "OptimisationStat",
    "Pipeline",
    "PipelineReport",
    "PipelineStat",
    "Readiness",
    "Remaining",
    "SampleStat",
    "SourceSpec",
    "SourceStat",
    "Spec",
    "Subscriber",
    "SubscriberKeys",
    "UdpSink",
    "Variant",
    "Weights",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpSink:
    """A UDP receiver. The device sends it one datagram per prediction.

    Attributes:
        type: `udp`.
        host: A host name or an IP address.
        port: The port, from 1 to 65535.
    """

    type: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A further model, which runs on the objects that the first one has found.

    Attributes:
        name: The name of its results in a prediction.
        model: The id of the model, and the digest that it refers to.
        classes: Only objects of these classes of the first model. None: all.
        max_objects: The maximum objects of a frame, the most confident first.
        margin: Added to each side of an object, in parts of its width and height.
        max_delay: Seconds that a live frame waits for it.
        confidence: The minimum confidence of its detections. None: the device's default.
        max_detections: The maximum detections in an object.
    """

    name: str
    model: ModelRef
    classes: tuple[str, ...] | None
    max_objects: int
    margin: float
    max_delay: float
    confidence: float | None
    max_detections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStat:
    """The objects on which a stage was to run, since the process of the pipeline started.

    Attributes:
        name: The name of the stage.
        inferred: Objects that it has run on.
        late: Objects whose frame went on without it.
        failed: Objects for which inference failed.
    """

    name: str
    inferred: int
    late: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveModel:
    """The model that a pipeline uses.

    Attributes:
        id: Its id.
        crashes: How often its engine on the device has crashed, since the pipeline was given it.
        trouble: Why the desired model can never be used, so that this one goes on. Empty: it can be used.
    """

    id: str
    crashes: int
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The desired inference of a pipeline. The credentials of its sources are removed.

    Attributes:
        model: The id of the model, and the digest that it refers to.
        sources: The video sources.
        sinks: UDP receivers of the predictions.
        max_fps: The maximum frames per second of each source. None: no limit.
        confidence: The minimum confidence of an object, from 0 to 1. None: the device's default.
        iou_threshold: Of boxes that overlap more than this (IoU, from 0 to 1), only the most confident stays.
            None: the device's default.
        class_agnostic_nms: Whether `iou_threshold` applies also between different classes.
            None: the device's default.
        max_candidates: The maximum boxes before suppression. None: the device's default.
        max_detections: The maximum objects per frame. None: the device's default.
        tracker: `bytetrack`, `sort`, `ocsort`, `botsort`, `cbiou`, or None.
        sampling: The rules that select frames for labelling. None: no frames.
        priority: `high`, `normal` or `low`: whose frames a busy device infers first.
        mask_format: `polygon` or `rle`: how predictions have masks.
        stages: Further models, which run on the objects that this one has found.
        keep: How long and how many of its predictions a device keeps. None: as of others.
    """

    model: ModelRef
    sources: tuple[SourceSpec, ...]
    sinks: tuple[UdpSink, ...]
    max_fps: float | None
    confidence: float | None
    iou_threshold: float | None
    class_agnostic_nms: bool | None
    max_candidates: int | None
    max_detections: int | None
    tracker: str | None
    sampling: dict[str, Any] | None
    priority: str
    mask_format: str
    stages: tuple[Stage, ...]
    keep: Keep | None = None

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """The model, and those of the stages."""
        return (self.model, *(stage.model for stage in self.stages))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A pipeline: its desired state, its device, and the latest metrics from the device.

    Attributes:
        pipeline_id: The id of the pipeline.
        version: Increases with each change of the desired state; the value for `if_match`.
        generation: Increases with each change that is sent to the device.
        desired_status: `run`, `pause` or `stop`.
        status: `pending`, `starting`, `running`, `paused`, `reconnecting`, `unknown`, `moving`, `backoff`,
            `failed`, `ended` or `stopping`.
        device: The device that the pipeline is assigned to. None: not assigned.
        requested: The device that was requested. None: any device.
        pinned: Whether the pipeline never moves to another device.
        on_disconnect: What was requested for a device that has lost the broker: `stop` or `continue`.
            None: `continue` if it is pinned, otherwise `stop`.
        observed: The last state that the device reported.
        reason: Why the pipeline does not run, for people. Empty if it runs.
        restarts: The number of restarts of its process.
        labels: Labels of the pipeline, for selectors.
        selector: Labels that its device must have.
        created_at: The creation time, in Unix seconds.
        spec: The desired inference.
        fps: Emitted frames per second.
        latency: Seconds from the capture of a frame to its emission.
        age: Seconds since the last report.
        emitted: The number of emitted predictions.
        dropped: The number of lost frames and predictions.
        samples: Counters of frames for labelling. None: the pipeline has no sampling.
        stages: Counters of the objects of each stage.
        sources: The state of each source.
        active_model: The model in use: the former one until the desired one is ready.
            None: the device has not reported it.
    """

    pipeline_id: str
    version: int
    generation: int
    desired_status: str
    status: str
    device: str | None
    requested: str | None
    pinned: bool
    on_disconnect: str | None
    observed: str | None
    reason: str
    restarts: int
    labels: dict[str, str]
    selector: dict[str, str]
    created_at: float
    spec: Spec
    fps: float | None
    latency: float | None
    age: float | None
    emitted: int | None
    dropped: int | None
    samples: SampleStat | None
    stages: tuple[StageStat, ...]
    sources: tuple[SourceStat, ...]
    active_model: ActiveModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineReport:
    """The full status of a pipeline, from the last report of its device.

    Attributes:
        pipeline_id: The id of the pipeline.
        device: The device that the pipeline is assigned to. None: not assigned.
        generation: The generation of the desired state that the device runs.
        incarnation: Increases with each start of the pipeline's process, which resets the counters.
        desired_status: `run`, `pause` or `stop`.
        state: The state that the device reported. None: no report yet.
        status: The status that the broker derived: see `Pipeline.status`.
        reason: Why the pipeline does not run, for people. Empty if it runs.
        restarts: The number of restarts of its process.
        last_crash: The reason for the last restart. Empty: none.
        fps: Emitted frames per second.
        sources: The state of each source.
        dropped: The number of predictions that were not delivered, by sink.
        samples: Counters of frames for labelling. None: the pipeline has no sampling.
        stages: Counters of the objects of each stage.
        active_model: The model in use: the former one until the desired one is ready.
            None: the device has not reported it.
        report: The status report in the format of Roboflow's stream manager.
        at: The time of the report, in Unix seconds of the device's clock.
        age: Seconds since the report arrived.
    """

    pipeline_id: str
    device: str | None
    generation: int
    incarnation: int
    desired_status: str
    state: str | None
    status: str
    reason: str
    restarts: int
    last_crash: str
    fps: float
    sources: tuple[SourceStat, ...]
    dropped: dict[str, int]
    samples: SampleStat | None
    stages: tuple[StageStat, ...]
    active_model: ActiveModel | None = None
    report: dict[str, Any]
    at: float | None
    age: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPipeline:
    """A pipeline of a roll-out.

    Attributes:
        pipeline_id: The id of the pipeline.
        stage: `waiting`, `switched` (it has the new model, which is not proven yet), `good`, `bad`, `back`
            (it was told to use the old model again) or `gone` (others have removed or changed it).
        verdict: What it does with both models, or what is wrong with the new one, for people.
        shadow: The same of the new model beside the old one.
    """

    pipeline_id: str
    stage: str
    verdict: str
    shadow: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Pipelines that move to another model in waves, and back if it is worse.

    Attributes:
        id: The id of the roll-out.
        model: The old model.
        to: The new model.
        phase: `measuring`, `shadow`, `canary`, `waves`, `returning`, and once it is over `done`,
            `returned` or `stopped`.
        reason: Why it returns, for people. Empty if it does not.
        created_at: The time of its start, in Unix seconds.
        ended_at: The time of its end, in Unix seconds. None: it is not over.
        canaries: The number of pipelines that go first.
        max_unavailable: The maximum of pipelines that are down, or not proven yet, at the same time.
        stages: The number of its pipelines, by stage.
        pipelines: Its pipelines, in the order in which they move. Empty in lists.
    """

    id: str
    model: ModelRef
    to: ModelRef
    phase: str
    reason: str
    created_at: float
    ended_at: float | None
    canaries: int
    max_unavailable: int
    stages: dict[str, int]
    pipelines: tuple[RolloutPipeline, ...]

    @property
    def is_over(self) -> bool:
        """Whether it changes nothing any more."""
        return self.phase in ("done", "returned", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """The result of a command for one of many pipelines.

    Attributes:
        pipeline_id: The id of the pipeline.
        status: The HTTP status that a request for this pipeline alone would get: 200 done, 202 stored but not
            yet confirmed by the device, 4xx or 5xx failed.
        detail: Why the command failed. Empty if it succeeded.
        pipeline: The pipeline after the command. None: it is deleted.
    """

    pipeline_id: str
    status: int
    detail: str
    pipeline: Pipeline | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """A pipeline that is still on a device that is drained.

    Attributes:
        pipeline_id: The pipeline.
        state: `moving` (to another device), `waiting` (it moves or ends later) or `staying` (it never moves).
        reason: Where it goes, or why it does not, for people.
    """

    pipeline_id: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A pipeline that moves from one device to another.

    Attributes:
        pipeline_id: The pipeline.
        source: The device on which it runs.
        target: The device on which it will run.
    """

    pipeline_id: str
    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """How much of its scarcest resource the pipelines of a device need.

    Attributes:
        before: The part of it now: 1 is all of it.
        after: The same after the moves.
    """

    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    """What moves from devices with much load to others with less.

    Attributes:
        moves: The moves in their order.
        devices: The devices whose load they change, by name.
    """

    moves: tuple[Move, ...]
    devices: dict[str, Utilisation]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLoad:
    """What the pipelines of a device need, and what it has. None: unknown.

    Attributes:
        engine: The part of its engine that they need.
        cores: The CPU cores that they need.
        all_cores: The CPU cores that its pipelines share, a tenth less than it has.
        memory: The bytes of memory that they need.
        all_memory: Its bytes of memory for pipelines.
        measured: Pipelines whose needs follow from measured costs.
        guessed: The other pipelines. Each counts as one of the `capacity` of the device.
    """

    engine: float
    cores: float
    all_cores: float | None
    memory: int
    all_memory: int | None
    measured: int
    guessed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a pipeline needs on a device.

    Attributes:
        engine: A part of its engine.
        cores: CPU cores.
        memory: Bytes of memory.
        is_measured: Whether it follows from measured costs. False: it is a guess.
    """

    engine: float
    cores: float
    memory: int
    is_measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Where a pipeline would go.

    Attributes:
        pipeline_id: The id of the pipeline.
        device: The device. None: nowhere.
        reason: Why nowhere, for people.
        need: What it needs there. None: it goes nowhere.
    """

    pipeline_id: str
    device: str | None
    reason: str
    need: Need | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where pipelines would go.

    Attributes:
        pipelines: The pipelines, in the order in which they were given.
        devices: The load of each device with them, by its name.
    """

    pipelines: tuple[Planned, ...]
    devices: dict[str, DeviceLoad]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one source of a pipeline costs. Times are seconds, sizes are bytes.

    Attributes:
        digest: The SHA-256 of the model's manifest.
        variant: The precision of the variant that ran. Empty: the model itself.
        decoder: What decoded the source.
        width: The width of its pictures in pixels.
        height: The height of its pictures in pixels.
        accelerator: Time of an accelerator for an inference. 0: the CPU runs the model.
        inference: CPU time of the engine for an inference.
        reading: CPU time for a received frame, inferred or not.
        frame: CPU time for an inferred frame, without its inference.
        engine_memory: Memory of the engine, which all pipelines of the model share.
        camera_memory: Memory of the process of the pipeline, for one source.
        source_fps: Frames per second that such sources deliver.
        frames: The number of inferences that were measured.
    """

    digest: str
    variant: str
    decoder: str
    width: int
    height: int
    accelerator: float
    inference: float
    reading: float
    frame: float
    engine_memory: int
    camera_memory: int
    source_fps: float
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardCost:
    """A cost on one kind of device.

    Attributes:
        board: The kind, as `Device.board`.
        cost: The cost.
    """

    board: str
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelinePage:
    """A page of the list of pipelines.

    Attributes:
        pipelines: The pipelines, oldest first.
        next: `after` of the next page. None: this is the last one.
    """

    pipelines: tuple[Pipeline, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device: its state at the broker, and the latest metrics that it reported.

    Attributes:
        device: The name of the device.
        state: `new`, `syncing`, `ready`, `suspect`, `lost`, `left` or `quarantined`.
        capacity: The maximum number of pipelines.
        pipelines: The number of pipelines that are assigned to the device.
        agent: The version of its worker.
        silent: Seconds since its last message. None: no message yet.
        labels: Labels of the device, for selectors.
        dropped: Messages beyond its budget that the broker dropped since its start, by plane: `control`,
            or `data` for predictions, statuses and previews. Only planes with some.
        drills: Whether it takes part in drills.
        cordoned: Whether no pipeline is placed on it.
        draining: Whether its pipelines are moved away.
        remaining: What is left of a drain.
        engines: The models that it runs.
        cores: The number of CPU cores.
        load: The load average over one minute.
        memory: Total memory in bytes.
        memory_available: Available memory in bytes.
        temperature: Degrees Celsius of its hottest sensor. None: unknown.
        throttled: Whether heat or too little power slows it down, now or within the last minute.
        throttle_reason: Why it is throttled, for people. Empty: it is not.
        gpu_load: Load of its GPU, from 0 to 1.
        gpu_power_watts: Power that its GPU uses.
        disk: Bytes of the file system of its data directory.
        disk_available: Available bytes of it.
        clock_offset: Seconds that its clock is ahead of the clock of the API.
        clock: What its kernel says of its clock. None: unknown.
        keeping: Where it keeps the predictions that it has sent. None: unknown.
        demand: What its pipelines need, and what it has. None: it has not joined, or its fleet does not tell.
        board: Its kind: devices with the same name run the same variants of models. None: unknown.
        optimisation: The last building of variants of a model that it was asked for. None: none since its
            agent started.
        missing_accelerator: Why its models do not run on an accelerator that it should have, and what to do.
            None: they do, or it has none.
        age: Seconds since the last report.
    """

    device: str
    state: str
    capacity: int
    pipelines: int
    agent: str
    silent: float | None
    labels: dict[str, str]
    dropped: dict[str, int]
    drills: bool
    cordoned: bool = False
    draining: bool = False
    remaining: tuple[Remaining, ...] = ()
    engines: tuple[EngineStat, ...]
    cores: int | None
    load: float | None
    memory: int | None
    memory_available: int | None
    temperature: float | None
    throttled: bool | None
    throttle_reason: str | None
    gpu_load: float | None
    gpu_power_watts: float | None
    disk: int | None
    disk_available: int | None
    clock_offset: float | None
    clock: ClockStat | None = None
    keeping: KeepingStat | None = None
    demand: DeviceLoad | None = None
    board: str | None = None
    optimisation: OptimisationStat | None = None
    missing_accelerator: MissingAccelerator | None
    age: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePage:
    """A page of the list of devices.

    Attributes:
        devices: The devices, sorted by name.
        next: `after` of the next page. None: this is the last one.
    """

    devices: tuple[Device, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A token for `streamfleet-worker --join`. It can be used once.

    Attributes:
        device: The name of the device.
        token: The token. Keep it secret until the device has joined.
    """

    device: str
    token: str

    def __repr__(self) -> str:
        return f"JoinToken(device={self.device!r}, token=…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """A program on another machine that may subscribe. Without pipelines and selector it receives all.

    Attributes:
        name: The name of the subscriber.
        pipelines: Ids of pipelines that it may receive.
        selector: Labels of further pipelines that it may receive.
    """

    name: str
    pipelines: tuple[str, ...]
    selector: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberKeys:
    """Addresses and CURVE keys for `subscribe` on another machine. The API keeps no copy of the secret key.

    Attributes:
        name: The name of the subscriber.
        endpoint: The first of `endpoints`.
        endpoints: ZeroMQ endpoints that publish predictions, in order of preference.
        server_key: The public key of the publisher, in Z85.
        public_key: The public key of the subscriber, in Z85.
        secret_key: The secret key of the subscriber, in Z85.
    """

    name: str
    endpoint: str
    endpoints: tuple[str, ...]
    server_key: str
    public_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"SubscriberKeys(name={self.name!r}, endpoints={self.endpoints!r}, …)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that pipelines can use. If its manifest is not available, the fields after `digest` are None.

    Attributes:
        id: The id of the model, for example `yolox-nano/1`.
        digest: The SHA-256 of its manifest.
        family: The layout of its input and output.
        labels: The class names.
        input_width: The width of its input in pixels.
        input_height: The height of its input in pixels.
        weights: The SHA-256 and the size of the ONNX file.
        task: What it finds: `detect`, `segment`, `obb`, `pose` or `classify`.
        keypoints: The names of each object's key points. Empty: it finds none.
        variants: Files that devices with certain boards run in place of `weights`.
    """

    id: str
    digest: str
    family: str | None
    task: str | None = None
    labels: tuple[str, ...] | None
    keypoints: tuple[str, ...] | None = None
    input_width: int | None
    input_height: int | None
    weights: Weights | None
    variants: tuple[Variant, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCard:
    """What an ONNX file says about itself. A text is empty if the file does not say it.

    Attributes:
        input_type: The type of its input: `float32`, `float16` or `uint8`.
        dynamic_size: Whether the graph accepts pictures of other sizes.
        dynamic_batch: Whether the graph accepts several pictures at once.
        opset: The version of ONNX's operators.
        ir_version: The version of the file format.
        license: The licence.
        author: The author.
        date: The date of the export, as written in the file.
        description: A description.
    """

    input_type: str | None
    dynamic_size: bool
    dynamic_batch: bool
    opset: int
    ir_version: int
    license: str
    author: str
    date: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard(Model):
    """A model with the contents of its card.

    Attributes:
        card: What the ONNX file says about itself. None: the file is not available, or the API is older.
        pipelines: Ids of the pipelines that use the model or used an earlier content of its id.
        costs: What its pipelines cost, as devices have measured, by kind of device.
    """

    card: FileCard | None = None
    pipelines: tuple[str, ...] = ()
    costs: tuple[BoardCost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedModel(Model):
    """A model after its registration.

    Attributes:
        replaces: The previous digest of the id. None: the id is new, or its digest has not changed.
    """

    replaces: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Pictures that pipelines selected for labelling.

    Attributes:
        dataset: The name of the dataset.
        samples: The number of pictures.
        size: The total size in bytes.
        oldest: The capture time of the oldest picture, in Unix seconds.
        newest: The capture time of the newest picture, in Unix seconds.
        pipelines: Ids of the pipelines that selected the pictures.
        devices: Names of the devices that sent the pictures.
    """

    dataset: str
    samples: int
    size: int
    oldest: float
    newest: float
    pipelines: tuple[str, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """A value that becomes another one when a file is applied.

    Attributes:
        field: The path to the value, for example `sources.0.max_fps`.
        before: The value that it has. None: it is not set.
        after: The value that it gets. None: it is not set any more.
    """

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedObject:
    """What became of one object of a file, or would become of it.

    Attributes:
        kind: `model`, `device` or `pipeline`.
        id: The id of the model or pipeline, or the name of the device.
        action: `create`, `update`, `delete` or `none`.
        changes: What changes of an object that is there.
        device: The device of a pipeline that changes. None: no device has room yet, or it is removed.
        restarts: Whether a pipeline begins a new run. False: it goes on.
        upload: The SHA-256 of a model's file that must be uploaded first. None: the fleet has it.
        problem: Why it was not done. Empty: it was done. The other objects are not affected.
    """

    kind: str
    id: str
    action: str
    changes: tuple[FieldChange, ...] = ()
    device: str | None = None
    restarts: bool = False
    upload: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyResult:
    """The result of applying a file: models, then devices, then pipelines in the order of the file.

    Attributes:
        manager: The manager of the pipelines. None: they have none.
        dry_run: Whether nothing was changed.
        objects: Each object of the file, and the pipelines that are removed.
    """

    manager: str | None
    dry_run: bool
    objects: tuple[AppliedObject, ...]

    @property
    def changed(self) -> tuple[AppliedObject, ...]:
        """The objects that are not as the file says before it is applied."""
        return tuple(each for each in self.objects if each.action != "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A state change of a pipeline, a device or a process of the fleet.

    Attributes:
        epoch: Increases with each start of the broker.
        n: Increases with each event of an epoch.
        at: The time of the event, in Unix seconds.
        subject: `pipeline`, `device` or `process`.
        id: The id of the pipeline, or the name of the device or process.
        state: The new state; `gone` if the subject was deleted.
        previous: The previous state; empty if the subject is new.
        device: The device of a pipeline.
        reason: The reason for the change, for people.
        restarts: The number of restarts of the pipeline's process.
    """

    epoch: int
    n: int
    at: float
    subject: str
    id: str
    state: str
    previous: str
    device: str | None
    reason: str
    restarts: int

    @property
    def cursor(self) -> str:
        """The value for `events(after=…)` to continue after this event."""
        return f"{self.epoch}-{self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The health of the API process.

    Attributes:
        status: `ok`.
        pid: The process id.
        warnings: Warnings for the operator.
    """

    status: str
    pid: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The readiness of the fleet, as the broker reports it.

    Attributes:
        status: `ok`, or the reason why the fleet is not ready.
        epoch: Increases with each start of the broker.
        uptime: Seconds since the start of the broker.
        devices_ready: The number of devices that can run pipelines now.
        devices: The number of devices that have joined.
        pipelines: The number of pipelines.
    """

    status: str
    epoch: int
    uptime: float
    devices_ready: int
    devices: int
    pipelines: int

    @property
    def is_ready(self) -> bool:
        """Whether at least one device can run pipelines."""
        return self.devices_ready > 0
