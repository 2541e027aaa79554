"""What `/v2` answers, as models: the answers are made of them, and the documentation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from streamfleet_api.bodies import SamplingRequest
from streamfleet_api.statuses import Seen, as_of_now
from streamfleet_api.wanted import asked_sampling
from streamfleet_broker.protocol.reference import sanitised
from streamfleet_broker.protocol.requests import (
    DeviceState,
    DeviceView,
    FleetEvent,
    FleetView,
    PipelineStatus,
    PipelineView,
)
from streamfleet_broker.protocol.status import (
    DeviceStat,
    EngineStat,
    PipelineStat,
    SampleStat,
    SourceStat,
    empty_report,
    silent_sources,
)
from streamfleet_broker.protocol.values import (
    Family,
    Manifest,
    ModelRef,
    ObservedState,
    PipelineSpec,
    SourceSpec,
    Tracker,
    Want,
    Weights,
)


class Answer(BaseModel):
    """What all answers have in common."""

    model_config = ConfigDict(protected_namespaces=(), use_attribute_docstrings=True)


# pipelines ------------------------------------------------------------------------------------------------


class Sink(Answer):
    """Where the device sends a datagram for each prediction."""

    type: Literal["udp"] = "udp"
    host: str
    port: int


class Spec(Answer):
    """What is wished for, without the credentials of its sources."""

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

    @classmethod
    def of(cls, spec: PipelineSpec) -> Spec:
        """The spec as it may be shown."""
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
        )


class Pipeline(Answer):
    """A pipeline: what is wished for, where it is, and its figures as its device told last."""

    pipeline_id: str
    version: int
    """+1 at any change of what is wished for: its ETag."""
    gen: int
    """+1 at any change that its device gets to know."""
    want: Want
    status: PipelineStatus
    device: str | None
    """The device that it is on."""
    requested: str | None
    """The device that was asked for."""
    pinned: bool
    """It stays on its device whatever happens."""
    observed: ObservedState | None
    """What its device said last."""
    reason: str
    """For people: why it does not run."""
    restarts: int
    labels: dict[str, str]
    selector: dict[str, str]
    created_at: float
    """Unix seconds."""
    spec: Spec
    fps: float | None
    """Frames emitted a second. Null, as all figures, when no status has come."""
    latency: float | None
    """Seconds from the capture of a frame to its emission."""
    age: float | None
    """Seconds since the last status."""
    emitted: int | None
    dropped: int | None
    samples: SampleStat | None
    """Frames that are kept for labelling. Null: none is, and none was."""
    sources: list[SourceStat]

    @classmethod
    def of(cls, view: PipelineView, seen: Seen[PipelineStat] | None) -> Pipeline:
        """What the broker knows, and what the device told last."""
        stat = as_of_now(seen) if seen else None
        return cls(
            pipeline_id=view.pipeline_id,
            version=view.version,
            gen=view.gen,
            want=view.want,
            status=view.status,
            device=view.device,
            requested=view.requested,
            pinned=view.pinned,
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
            sources=list(stat.sources) if stat else [],
        )


class PipelineList(Answer):
    """Pipelines, oldest first."""

    pipelines: list[Pipeline]


class PipelineReport(Answer):
    """The whole present state of a pipeline, as its device told it last."""

    pipeline_id: str
    device: str | None
    gen: int
    inc: int
    """+1 at each start of its process: counters begin anew."""
    want: Want
    state: ObservedState | None
    """What its device says. Null: nothing yet."""
    status: PipelineStatus
    """What the broker says."""
    reason: str
    restarts: int
    last_crash: str
    """Why it was restarted last, though it may run again."""
    fps: float
    sources: list[SourceStat]
    dropped: dict[str, int]
    """Emitted but not delivered, by sink."""
    samples: SampleStat | None
    """Frames that are kept for labelling. Null: none is, and none was."""
    report: dict[str, Any]
    """The status report of the original."""
    at: float | None
    """Unix seconds. Null: nothing has come yet."""
    age: float | None
    """Seconds since it came."""

    @classmethod
    def of(cls, view: PipelineView, seen: Seen[PipelineStat] | None) -> PipelineReport:
        """The last status, or what the broker knows before the first."""
        stat = as_of_now(seen) if seen else _before_the_first(view)
        return cls(
            pipeline_id=view.pipeline_id,
            device=stat.device if seen else view.device,
            gen=stat.gen,
            inc=stat.inc,
            want=view.want,
            state=stat.state if seen else view.observed,
            status=view.status,
            reason=view.reason or stat.reason,
            restarts=view.restarts,
            last_crash=stat.last_crash,
            fps=stat.fps,
            sources=list(stat.sources),
            dropped=stat.dropped,
            samples=stat.samples,
            report=stat.report,
            at=stat.at if seen else None,
            age=round(seen.age, 3) if seen else None,
        )


def _before_the_first(view: PipelineView) -> PipelineStat:
    sources = silent_sources(view.spec, "NOT_STARTED")
    report = empty_report(view.spec, "NOT_STARTED")
    return PipelineStat(
        view.pipeline_id,
        view.device or "",
        view.gen,
        0,
        view.want,
        view.observed or ObservedState.STARTING,
        view.reason,
        view.restarts,
        0.0,
        sources,
        {},
        report,
        0.0,
    )


def latency_of(stat: PipelineStat) -> float | None:
    """Seconds from the capture of a frame to its emission, the mean of its sources; None: unknown."""
    known = [source.latency for source in stat.sources if source.latency is not None]
    return sum(known) / len(known) if known else None


def drops_of(stat: PipelineStat) -> int:
    """All that was lost, before its emission and after."""
    before = sum(sum(source.dropped.values()) for source in stat.sources)
    return before + sum(stat.dropped.values())


# devices --------------------------------------------------------------------------------------------------


class Device(Answer):
    """A device as the broker knows it, and its figures as it told them last."""

    device: str
    state: DeviceState
    capacity: int
    """Pipelines that it is willing to run."""
    pipelines: int
    """Those that are wished for there."""
    agent: str
    """The version of its software."""
    silent: float | None
    """Seconds since the broker heard it. Null: never."""
    labels: dict[str, str]
    engines: list[EngineStat]
    cores: int | None
    """Null, as all of the following, when no status has come."""
    load: float | None
    """Processes that run or want to, over the last minute."""
    memory: int | None
    """Bytes that the machine has."""
    memory_available: int | None
    """Bytes that programs may still have."""
    age: float | None
    """Seconds since the last status."""

    @classmethod
    def of(cls, view: DeviceView, seen: Seen[DeviceStat] | None) -> Device:
        """What the broker knows, and what the device told last."""
        stat = seen.stat if seen else None
        return cls(
            device=view.device,
            state=view.state,
            capacity=view.capacity,
            pipelines=view.pipelines,
            agent=view.agent,
            silent=view.silent,
            labels=view.labels,
            engines=list(stat.engines) if stat else [],
            cores=stat.cores if stat else None,
            load=stat.load if stat else None,
            memory=stat.memory if stat else None,
            memory_available=stat.memory_available if stat else None,
            age=round(seen.age, 3) if seen else None,
        )


class DeviceList(Answer):
    """Devices, by name."""

    devices: list[Device]


class JoinToken(Answer):
    """What `streamfleet-worker --join` takes, once."""

    device: str
    token: str


class SubscriberKeys(Answer):
    """All that a subscriber over TCP needs. The secret key is shown this once and kept nowhere else."""

    name: str
    endpoint: str
    server_key: str
    public_key: str
    secret_key: str


# models and blobs -----------------------------------------------------------------------------------------


class Model(Answer):
    """A model that pipelines may name. What its manifest says is null when that is not here."""

    id: str
    digest: str
    """The sha256 of its manifest."""
    family: Family | None
    labels: list[str] | None
    input_width: int | None
    input_height: int | None
    weights: Weights | None

    @classmethod
    def of(cls, model: ModelRef, manifest: Manifest | None) -> Model:
        """A model with what its manifest says of it."""
        return cls(
            id=model.id,
            digest=model.digest,
            family=manifest.family if manifest else None,
            labels=list(manifest.labels) if manifest else None,
            input_width=manifest.input_width if manifest else None,
            input_height=manifest.input_height if manifest else None,
            weights=manifest.weights if manifest else None,
        )


class PutModelAnswer(Model):
    """A model that was put."""

    replaces: str | None
    """The digest that the id stood for before, when it was another."""


class ModelList(Answer):
    """Models, by id."""

    models: list[Model]


class Blob(Answer):
    """Content that is here now."""

    sha256: str
    size: int


# streams --------------------------------------------------------------------------------------------------


class EventList(Answer):
    """What happened last, oldest first."""

    events: list[FleetEvent]
    last: str
    """The id after which a stream of events goes on."""


class Ticket(Answer):
    """What opens one stream, once."""

    ticket: str
    expires_in: float
    """Seconds."""


# the process ----------------------------------------------------------------------------------------------


class Health(Answer):
    """This process answers."""

    status: Literal["ok"]
    pid: int


class Readiness(Answer):
    """What the broker says of the fleet."""

    status: str
    epoch: int
    uptime: float
    devices_ready: int
    devices: int
    pipelines: int

    @classmethod
    def of(cls, fleet: FleetView) -> Readiness:
        """Ready is who has a device."""
        return cls(
            status="ok" if fleet.devices_ready else "no device is ready",
            epoch=fleet.epoch,
            uptime=fleet.uptime,
            devices_ready=fleet.devices_ready,
            devices=fleet.devices,
            pipelines=fleet.pipelines,
        )


class ErrorOfField(Answer):
    """What is wrong with one part of a request."""

    loc: list[str | int]
    msg: str
    type: str
    input: Any = None


class ProblemDetails(Answer):
    """Why a request had no effect (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ErrorOfField] = []
