"""Response bodies of `/v2`, as models: they build the responses and the documentation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from streamfleet_api.feeds.statuses import Seen, as_of_now
from streamfleet_api.v2.mapping import asked_sampling
from streamfleet_api.v2.requests import SamplingRequest
from streamfleet_core.models.model_card import FileCard
from streamfleet_core.protocol.costs import BoardCost, DeviceLoad
from streamfleet_core.protocol.requests import (
    DeviceState,
    DeviceView,
    FleetEvent,
    FleetView,
    Move,
    PipelineStatus,
    PipelineView,
    Plan,
    Plane,
    Planned,
    Rebalance,
    Utilisation,
)
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.status import (
    ActiveModel,
    ClockStat,
    DeviceStat,
    EngineStat,
    KeepingStat,
    MissingAccelerator,
    PipelineStat,
    SampleStat,
    SourceStat,
    StageStat,
    empty_report,
    silent_sources,
)
from streamfleet_core.protocol.tasks.optimisation import OptimisationStat
from streamfleet_core.protocol.tasks.rollouts import Phase, RolloutView
from streamfleet_core.protocol.tasks.rollouts import Stage as RolloutStage
from streamfleet_core.protocol.values import (
    DesiredStatus,
    Family,
    Keep,
    Manifest,
    MaskFormat,
    ModelRef,
    ObservedState,
    OnDisconnect,
    PipelineSpec,
    Priority,
    SourceSpec,
    Stage,
    Task,
    Tracker,
    Variant,
    Weights,
)


class Answer(BaseModel):
    """The common base of all response bodies."""

    # Built at the first use: most are never used by a process, and all together delay its start.
    model_config = ConfigDict(protected_namespaces=(), use_attribute_docstrings=True, defer_build=True)


# pipelines ------------------------------------------------------------------------------------------------


class Sink(Answer):
    """The destination of a datagram per prediction."""

    type: Literal["udp"] = "udp"
    host: str
    port: int


class Spec(Answer):
    """The desired pipeline, without the credentials of its sources."""

    model: ModelRef
    sources: list[SourceSpec]
    sinks: list[Sink]
    max_fps: float | None
    confidence: float | None
    iou_threshold: float | None
    class_agnostic_nms: bool | None
    max_candidates: int | None
    max_detections: int | None
    tracker: Tracker | None
    sampling: SamplingRequest | None
    priority: Priority
    mask_format: MaskFormat
    stages: list[Stage]
    """Further models, which run on the objects that this one has found."""
    keep: Keep | None
    """How long and how many of its predictions a device keeps. Null: as of others."""

    @classmethod
    def of(cls, spec: PipelineSpec) -> Spec:
        """The spec without credentials."""
        return cls(
            model=spec.model,
            sources=[replace(source, reference=sanitised(source.reference)) for source in spec.sources],
            sinks=[Sink(host=sink.host, port=sink.port) for sink in spec.sinks],
            max_fps=spec.max_fps,
            confidence=spec.confidence,
            iou_threshold=spec.iou_threshold,
            class_agnostic_nms=spec.class_agnostic_nms,
            max_candidates=spec.max_candidates,
            max_detections=spec.max_detections,
            tracker=spec.tracker,
            sampling=asked_sampling(spec.sampling),
            priority=spec.priority,
            mask_format=spec.mask_format,
            stages=list(spec.stages),
            keep=spec.keep,
        )


class Pipeline(Answer):
    """A pipeline: its spec, its device, and the figures of its last status."""

    pipeline_id: str
    version: int
    """+1 at any change of the spec; also its ETag."""
    generation: int
    """+1 at any change that concerns its device."""
    desired_status: DesiredStatus
    status: PipelineStatus
    device: str | None
    """The device that runs it."""
    requested: str | None
    """The requested device."""
    pinned: bool
    """It never moves from its device."""
    on_disconnect: OnDisconnect | None
    """What was requested for a device that has lost the broker. Null: `continue` if it is pinned, otherwise
    `stop`."""
    observed: ObservedState | None
    """The last state that its device reported."""
    reason: str
    """Why it does not run, as text."""
    restarts: int
    labels: dict[str, str]
    selector: dict[str, str]
    created_at: float
    """Unix seconds."""
    spec: Spec
    fps: float | None
    """Emitted frames per second. Null, like all figures, without a status."""
    latency: float | None
    """Seconds from the capture of a frame to its emission."""
    age: float | None
    """Seconds since the last status."""
    emitted: int | None
    dropped: int | None
    samples: SampleStat | None
    """Samples kept for labelling. Null: none now or before."""
    stages: list[StageStat]
    """The objects on which each stage has run, and those that were late or failed."""
    sources: list[SourceStat]
    active_model: ActiveModel | None
    """The model in use: the former one until the desired one is ready. Null: its device has not told it."""

    @classmethod
    def of(cls, view: PipelineView, seen: Seen[PipelineStat] | None) -> Pipeline:
        """Combine what the broker knows with the last status."""
        stat = as_of_now(seen) if seen else None
        return cls(
            pipeline_id=view.pipeline_id,
            version=view.version,
            generation=view.generation,
            desired_status=view.desired_status,
            status=view.status,
            device=view.device,
            requested=view.requested,
            pinned=view.pinned,
            on_disconnect=view.on_disconnect,
            observed=view.observed,
            reason=view.reason,
            restarts=view.restarts,
            labels=view.labels,
            selector=view.selector,
            created_at=view.created_at,
            spec=Spec.of(view.spec),
            fps=round(stat.fps, 2) if stat else None,
            latency=latency_of(stat) if stat else None,
            age=round(seen.age, 3) if seen else None,
            emitted=sum(source.emitted for source in stat.sources) if stat else None,
            dropped=drops_of(stat) if stat else None,
            samples=stat.samples if stat else None,
            stages=list(stat.stages) if stat else [],
            sources=list(stat.sources) if stat else [],
            active_model=stat.active_model if stat else None,
        )


class PipelineList(Answer):
    """Pipelines, oldest first."""

    pipelines: list[Pipeline]
    next: str | None = None
    """With `limit`: `after` of the next page, which may be empty. Null: this is the last one."""


class CommandResult(Answer):
    """The result for one pipeline."""

    pipeline_id: str
    status: int
    """As for a single request: 200 done, 202 stored but not yet confirmed by its device, 404, 409, …"""
    detail: str
    """Why it was refused."""
    pipeline: Pipeline | None
    """Its present state. Null: it is gone."""


class CommandResults(Answer):
    """Results, in the order of the request."""

    results: list[CommandResult]


class PipelineReport(Answer):
    """The complete state of a pipeline, as its device reported it last."""

    pipeline_id: str
    device: str | None
    generation: int
    incarnation: int
    """+1 at each start of its process, which resets the counters."""
    desired_status: DesiredStatus
    state: ObservedState | None
    """The state that its device reports. Null: nothing yet."""
    status: PipelineStatus
    """The state as the broker sees it."""
    reason: str
    restarts: int
    last_crash: str
    """Why it was restarted last, even if it runs again."""
    fps: float
    sources: list[SourceStat]
    dropped: dict[str, int]
    """Emitted but not delivered, by sink."""
    samples: SampleStat | None
    """Samples kept for labelling. Null: none now or before."""
    stages: list[StageStat]
    """The objects on which each stage has run, and those that were late or failed."""
    active_model: ActiveModel | None
    """The model in use: the former one until the desired one is ready. Null: its device has not told it."""
    report: dict[str, Any]
    """Roboflow's status report."""
    at: float | None
    """Unix seconds. Null: no status yet."""
    age: float | None
    """Seconds since it was received."""

    @classmethod
    def of(cls, view: PipelineView, seen: Seen[PipelineStat] | None) -> PipelineReport:
        """The last status, or what the broker knows before the first one."""
        stat = as_of_now(seen) if seen else _before_the_first(view)
        return cls(
            pipeline_id=view.pipeline_id,
            device=stat.device if seen else view.device,
            generation=stat.generation,
            incarnation=stat.incarnation,
            desired_status=view.desired_status,
            state=stat.state if seen else view.observed,
            status=view.status,
            reason=view.reason or stat.reason,
            restarts=view.restarts,
            last_crash=stat.last_crash,
            fps=stat.fps,
            sources=list(stat.sources),
            dropped=stat.dropped,
            samples=stat.samples,
            stages=list(stat.stages),
            active_model=stat.active_model,
            report=dict(stat.report),
            at=stat.at if seen else None,
            age=round(seen.age, 3) if seen else None,
        )


def _before_the_first(view: PipelineView) -> PipelineStat:
    sources = silent_sources(view.spec, "NOT_STARTED")
    report = empty_report(view.spec, "NOT_STARTED")
    return PipelineStat(
        pipeline_id=view.pipeline_id,
        device=view.device or "",
        generation=view.generation,
        incarnation=0,
        desired_status=view.desired_status,
        state=view.observed or ObservedState.STARTING,
        reason=view.reason,
        restarts=view.restarts,
        fps=0.0,
        sources=sources,
        dropped={},
        report=report,
        at=0.0,
    )


def latency_of(stat: PipelineStat) -> float | None:
    """Seconds from the capture of a frame to its emission, the mean of its sources; None: unknown."""
    known = [source.latency for source in stat.sources if source.latency is not None]
    return sum(known) / len(known) if known else None


def drops_of(stat: PipelineStat) -> int:
    """All lost frames, before and after emission."""
    before = sum(sum(source.dropped.values()) for source in stat.sources)
    return before + sum(stat.dropped.values())


# a fleet as a file ----------------------------------------------------------------------------------------


class FieldChange(Answer):
    """A value that becomes another one. Null: it is not set."""

    field: str
    """As `sources.0.max_fps`."""
    before: Any
    after: Any


class AppliedObject(Answer):
    """What became of one object of a file, or would become of it."""

    kind: Literal["model", "device", "pipeline"]
    id: str
    action: Literal["create", "update", "delete", "none"]
    changes: list[FieldChange] = []
    device: str | None = None
    """The device of a pipeline that changes. Null: none has room yet, or it is removed."""
    restarts: bool = False
    """The pipeline begins a new run. False: it goes on."""
    upload: str | None = None
    """The sha256 of a model's file, which must be uploaded as a blob first."""
    problem: str = ""
    """Why it was not done. The other objects are not affected."""


class ApplyResult(Answer):
    """What was applied: models, then devices, then pipelines in the order of the file."""

    manager: str | None
    dry_run: bool
    """Nothing was changed."""
    objects: list[AppliedObject]


# devices --------------------------------------------------------------------------------------------------


class Remaining(Answer):
    """A pipeline that is still on a device that is drained."""

    pipeline_id: str
    state: Literal["moving", "waiting", "staying"]
    """moving: to another device; waiting: it moves or ends later; staying: it never moves."""
    reason: str
    """Where it goes, or why it does not; for people."""


class Device(Answer):
    """A device as the broker knows it, and the figures of its last status."""

    device: str
    state: DeviceState
    capacity: int
    """Pipelines that it can run."""
    pipelines: int
    """Pipelines assigned to it."""
    agent: str
    """The version of its software."""
    silent: float | None
    """Seconds since the broker heard it. Null: never."""
    labels: dict[str, str]
    dropped: dict[Plane, int]
    """Messages beyond its budget that the broker dropped since its start, by plane; only planes with some."""
    drills: bool
    """Whether it takes part in drills."""
    cordoned: bool
    """Whether no pipeline is placed on it."""
    draining: bool
    """Whether its pipelines are moved away."""
    remaining: list[Remaining]
    """What is left of a drain. It is done when nothing is `moving` or `waiting`."""
    engines: list[EngineStat]
    cores: int | None
    """Null, like all of the following, without a status."""
    load: float | None
    """Load average over the last minute."""
    memory: int | None
    """Total memory in bytes."""
    memory_available: int | None
    """Available memory in bytes."""
    temperature: float | None
    """Degrees Celsius of its hottest sensor. Null: unknown, like all of the following up to the disk."""
    throttled: bool | None
    """Whether heat or too little power slows it down, now or within the last minute."""
    throttle_reason: str | None
    """Why it is throttled, for people. Empty: it is not."""
    gpu_load: float | None
    """Load of its GPU, from 0 to 1."""
    gpu_power_watts: float | None
    """Power that its GPU uses."""
    disk: int | None
    """Bytes of the file system of its data directory."""
    disk_available: int | None
    """Available bytes of it."""
    clock_offset: float | None
    """Seconds that its clock is ahead of the clock of this api."""
    clock: ClockStat | None
    """Whether its kernel calls its clock synchronised, and by how many seconds it is wrong at most."""
    keeping: KeepingStat | None
    """Where it keeps sent predictions, and why not at the moment. Null: unknown."""
    demand: DeviceLoad | None
    """What its pipelines need, and what it has. Null: it has not joined."""
    board: str | None
    """Its kind: devices with the same name run the same variants of models. Null: unknown."""
    optimisation: OptimisationStat | None
    """The last building of variants that it was asked for. Null: none since its agent started."""
    missing_accelerator: MissingAccelerator | None
    """Why its models do not run on an accelerator that it should have. Null: they do, or it has none."""
    age: float | None
    """Seconds since the last status."""

    @classmethod
    def of(cls, view: DeviceView, seen: Seen[DeviceStat] | None) -> Device:
        """Combine what the broker knows with the last status."""
        stat = seen.stat if seen else None
        offset = None if seen is None else round(seen.stat.at + seen.age - time.time(), 3)
        return cls(
            device=view.device,
            state=view.state,
            capacity=view.capacity,
            pipelines=view.pipelines,
            agent=view.agent,
            silent=view.silent,
            labels=view.labels,
            dropped=view.dropped,
            drills=view.drills,
            cordoned=view.cordoned,
            draining=view.draining,
            remaining=[
                Remaining(pipeline_id=each.pipeline_id, state=each.state, reason=each.reason)
                for each in view.remaining
            ],
            engines=list(stat.engines) if stat else [],
            cores=stat.cores if stat else None,
            load=stat.load if stat else None,
            memory=stat.memory if stat else None,
            memory_available=stat.memory_available if stat else None,
            temperature=stat.temperature if stat else None,
            throttled=stat.throttled if stat else None,
            throttle_reason=stat.throttle_reason if stat else None,
            gpu_load=stat.gpu_load if stat else None,
            gpu_power_watts=stat.gpu_power_watts if stat else None,
            disk=stat.disk or None if stat else None,
            disk_available=stat.disk_available if stat and stat.disk else None,
            clock_offset=offset,
            clock=stat.clock if stat else None,
            keeping=stat.keeping if stat else None,
            demand=view.load,
            board=stat.board or None if stat else None,
            optimisation=stat.optimisation if stat else None,
            missing_accelerator=stat.missing_accelerator if stat else None,
            age=round(seen.age, 3) if seen else None,
        )


class DeviceList(Answer):
    """Devices, by name."""

    devices: list[Device]
    next: str | None = None
    """With `limit`: `after` of the next page, which may be empty. Null: this is the last one."""


class JoinToken(Answer):
    """A token for `streamfleet-worker --join`, valid once."""

    device: str
    token: str


class RolloutPipeline(Answer):
    """A pipeline of a roll-out."""

    pipeline_id: str
    stage: RolloutStage
    """`switched`: it has the new model, which is not proven yet; `back`: it was told to use the old one
    again; `gone`: others have removed it, or given it a third model."""
    verdict: str
    """What it does with both models, or what is wrong with the new one, as text."""
    shadow: str
    """The same of the new model beside the old one."""


class Rollout(Answer):
    """Pipelines that move to another model in waves, and back if it is worse."""

    id: str
    model: ModelRef
    """The old one."""
    to: ModelRef
    """The new one."""
    phase: Phase
    """`measuring` the old model, `shadow`: the new one infers some frames beside it, `canary`: the first
    pipelines use it, `waves`: the others follow, `returning`; `done`, `returned` or `stopped`: it is over."""
    reason: str
    """Why it returns, as text."""
    created_at: float
    """Unix seconds."""
    ended_at: float | None
    """Unix seconds. Null: it is not over."""
    canaries: int
    """Pipelines that go first."""
    max_unavailable: int
    stages: dict[RolloutStage, int]
    """The number of its pipelines, by stage."""
    pipelines: list[RolloutPipeline]
    """In the order in which they move. Empty in lists."""

    @classmethod
    def of(cls, view: RolloutView) -> Rollout:
        """A roll-out as the broker tells it."""
        return cls(
            id=view.id,
            model=view.plan.old,
            to=view.plan.new,
            phase=view.phase,
            reason=view.reason,
            created_at=view.created_at,
            ended_at=view.ended_at,
            canaries=view.canaries,
            max_unavailable=view.plan.max_unavailable,
            stages=view.stages,
            pipelines=[
                RolloutPipeline(
                    pipeline_id=each.pipeline_id, stage=each.stage, verdict=each.verdict, shadow=each.shadow
                )
                for each in view.entries
            ],
        )


class RolloutList(Answer):
    """The last roll-outs, the oldest first."""

    rollouts: list[Rollout]


class Subscriber(Answer):
    """A program that may subscribe over TCP. With neither pipelines nor a selector it receives all."""

    name: str
    pipelines: list[str]
    selector: dict[str, str]


class SubscriberList(Answer):
    """Programs that may subscribe, by name."""

    subscribers: list[Subscriber]


class SubscriberKeys(Answer):
    """Endpoints and keys of a subscriber over TCP. The secret key is shown only once and not stored."""

    name: str
    endpoint: str
    """The first of `endpoints`."""
    endpoints: list[str]
    """All endpoints, the best first; `*` stands for the host of this api."""
    server_key: str
    public_key: str
    secret_key: str


# models and blobs -----------------------------------------------------------------------------------------


class Model(Answer):
    """A registered model. Fields of its manifest are null if the manifest is missing."""

    id: str
    digest: str
    """The sha256 of its manifest."""
    family: Family | None
    task: Task | None
    labels: list[str] | None
    keypoints: list[str] | None
    """Names of the key points of each object; empty if the model finds none."""
    input_width: int | None
    input_height: int | None
    weights: Weights | None
    variants: list[Variant] | None
    """Files that devices with certain boards run in place of `weights`."""

    @classmethod
    def of(cls, model: ModelRef, manifest: Manifest | None) -> Model:
        """A model with the fields of its manifest."""
        return cls(
            id=model.id,
            digest=model.digest,
            family=manifest.family if manifest else None,
            task=manifest.task if manifest else None,
            labels=list(manifest.labels) if manifest else None,
            keypoints=list(manifest.keypoints) if manifest else None,
            input_width=manifest.input_width if manifest else None,
            input_height=manifest.input_height if manifest else None,
            weights=manifest.weights if manifest else None,
            variants=list(manifest.variants) if manifest else None,
        )


class ModelCard(Model):
    """A registered model, with what its file says about itself and who uses it."""

    card: FileCard | None
    """What the ONNX file says. Null: the file is missing or damaged."""
    pipelines: list[str]
    """Ids of the pipelines that use it, or used an earlier content of the same id."""
    costs: list[BoardCost]
    """What its pipelines cost, as devices have measured, by kind of device."""

    @classmethod
    def with_card(
        cls, model: Model, card: FileCard | None, pipelines: list[str], costs: Sequence[BoardCost]
    ) -> ModelCard:
        """The model with its card."""
        return cls(**dict(model), card=card, pipelines=pipelines, costs=list(costs))


class PlanAnswer(Answer):
    """Where pipelines would go."""

    pipelines: list[Planned]
    """In the order of the request."""
    devices: dict[str, DeviceLoad]
    """The load of each device then, by its name."""

    @classmethod
    def of(cls, plan: Plan) -> PlanAnswer:
        """The plan of the broker."""
        return cls(pipelines=list(plan.pipelines), devices=dict(plan.devices))


class RebalanceAnswer(Answer):
    """What moves from devices with much load to others with less."""

    moves: list[Move]
    """In their order; a few at a time."""
    devices: dict[str, Utilisation]
    """The devices whose load changes, by name: the part of their scarcest resource that is needed."""

    @classmethod
    def of(cls, rebalance: Rebalance) -> RebalanceAnswer:
        """The plan of the broker."""
        return cls(moves=list(rebalance.moves), devices=dict(rebalance.devices))


class PutModelAnswer(Model):
    """A model after its registration."""

    replaces: str | None
    """The digest that the id had before, if it was different."""


class Optimisation(Answer):
    """The building of variants that a device was asked for."""

    id: str
    """To cancel it; the `optimisation` of the device's status has the same one."""
    device: str
    model_id: str
    board: str
    """The kind of the device."""


class ModelList(Answer):
    """Models, by id."""

    models: list[Model]


class Blob(Answer):
    """Stored content."""

    sha256: str
    size: int


# streams --------------------------------------------------------------------------------------------------


class EventList(Answer):
    """The last events, oldest first."""

    events: list[FleetEvent]
    last: str
    """The id after which a stream of events can continue."""


class Ticket(Answer):
    """A ticket that opens one stream, once."""

    ticket: str
    expires_in: float
    """Seconds."""


# the process ----------------------------------------------------------------------------------------------


class Health(Answer):
    """This process answers."""

    status: Literal["ok"]
    pid: int
    warnings: list[str]
    """Warnings for the operator."""


class Readiness(Answer):
    """Figures of the fleet, as the broker knows them."""

    status: str
    epoch: int
    uptime: float
    devices_ready: int
    devices: int
    pipelines: int

    @classmethod
    def of(cls, fleet: FleetView) -> Readiness:
        """The fleet is ready if a device is ready."""
        return cls(
            status="ok" if fleet.devices_ready else "no device is ready",
            epoch=fleet.epoch,
            uptime=fleet.uptime,
            devices_ready=fleet.devices_ready,
            devices=fleet.devices,
            pipelines=fleet.pipelines,
        )


class ErrorOfField(Answer):
    """An error in one part of a request."""

    loc: list[str | int]
    msg: str
    type: str
    input: Any = None
    line: int | None = None
    """Of a document in YAML: the line of the value, from 1."""
    column: int | None = None


class ProblemDetails(Answer):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ErrorOfField] = []
