"""What the api answers, as values: made from its JSON, checked, and never changed afterwards.

Times are Unix seconds and durations seconds, unless a field says otherwise. A figure is None if no device has
reported it yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamfleet_core.protocol.status import (
    DeviceStat,
    EngineStat,
    PipelineStat,
    SampleStat,
    SourceStat,
)
from streamfleet_core.protocol.values import ModelRef, SourceSpec, Weights

__all__ = [
    "AddedModel",
    "CommandResult",
    "Dataset",
    "Device",
    "DeviceStat",
    "EngineStat",
    "Event",
    "Health",
    "JoinToken",
    "Model",
    "ModelRef",
    "Pipeline",
    "PipelineReport",
    "PipelineStat",
    "Readiness",
    "SampleStat",
    "SourceSpec",
    "SourceStat",
    "Spec",
    "Subscriber",
    "SubscriberKeys",
    "UdpSink",
    "Weights",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpSink:
    """Where the device sends a datagram for each prediction.

    Attributes:
        type: `udp`.
        host: A name or an address.
        port: From 1 to 65535.
    """

    type: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a pipeline should run. The credentials of its sources are left out.

    Attributes:
        model: Its id, and the digest of the content that it stands for.
        sources: Where frames come from.
        sinks: Where the device sends a datagram for each prediction.
        max_fps: Frames a second of each source. None: all.
        confidence: Objects below it are left out, from 0 to 1. None: the device's default.
        iou_threshold: Boxes that overlap more are one object, from 0 to 1. None: the device's default.
        class_agnostic_nms: Whether boxes of different classes that overlap are one object too.
        max_candidates: Boxes that are considered. None: the device's default.
        max_detections: Objects of a frame. None: the device's default.
        tracker: `bytetrack`, or None.
        sampling: Which frames are kept for labelling. None: none.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A pipeline: its desired state, its device, and the figures that the device reported last.

    Attributes:
        pipeline_id: Its id.
        version: Rises with each change of the desired state: what `if_match` takes.
        generation: Rises with each change that its device gets to know.
        desired_status: `run`, `pause` or `stop`.
        status: `pending`, `starting`, `running`, `paused`, `reconnecting`, `unknown`, `moving`, `backoff`,
            `failed`, `ended` or `stopping`.
        device: The device that it is on.
        requested: The device that was asked for.
        pinned: Whether it stays on its device whatever happens.
        observed: The state that its device reported last.
        reason: For people: why it does not run.
        restarts: How often its process was restarted.
        labels: What it can be found by.
        selector: Labels that its device must have.
        created_at: Unix seconds.
        spec: What it runs.
        fps: Frames emitted a second.
        latency: Seconds from the capture of a frame to its emission.
        age: Seconds since the last report.
        emitted: Predictions.
        dropped: Frames that were lost, before their emission or after.
        samples: Frames that are kept for labelling. None: none.
        sources: The state of each source.
    """

    pipeline_id: str
    version: int
    generation: int
    desired_status: str
    status: str
    device: str | None
    requested: str | None
    pinned: bool
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
    sources: tuple[SourceStat, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineReport:
    """The whole present state of a pipeline, as its device reported it last.

    Attributes:
        pipeline_id: Its id.
        device: The device that it is on.
        generation: Of the desired state that its device carries out.
        incarnation: Rises with each start of its process, at which counters begin at 0.
        desired_status: `run`, `pause` or `stop`.
        state: What its device says. None: nothing yet.
        status: What the broker says.
        reason: For people: why it does not run.
        restarts: How often its process was restarted.
        last_crash: Why it was restarted last.
        fps: Frames emitted a second.
        sources: The state of each source.
        dropped: Predictions that were not delivered, by sink.
        samples: Frames that are kept for labelling. None: none.
        report: The status report of Roboflow's stream manager.
        at: When it was made, in Unix seconds of the device.
        age: Seconds since it arrived.
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
    report: dict[str, Any]
    at: float | None
    age: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """The result of a command for one of many pipelines.

    Attributes:
        pipeline_id: Its id.
        status: As of a request for it alone: 200 done, 202 stored and not yet confirmed by its device.
        detail: Why it was refused.
        pipeline: As it is now. None: it is deleted.
    """

    pipeline_id: str
    status: int
    detail: str
    pipeline: Pipeline | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as the broker knows it, and the figures that it reported last.

    Attributes:
        device: Its name.
        state: `new`, `syncing`, `ready`, `suspect`, `lost`, `left` or `quarantined`.
        capacity: Pipelines that it is willing to run.
        pipelines: Pipelines that it should run.
        agent: The version of its software.
        silent: Seconds since the broker heard of it. None: never.
        labels: What it can be selected by.
        engines: The models that it runs.
        cores: Of its CPU.
        load: Processes that run or wait to run, over the last minute.
        memory: Bytes.
        memory_available: Bytes that programs may still have.
        age: Seconds since the last report.
    """

    device: str
    state: str
    capacity: int
    pipelines: int
    agent: str
    silent: float | None
    labels: dict[str, str]
    engines: tuple[EngineStat, ...]
    cores: int | None
    load: float | None
    memory: int | None
    memory_available: int | None
    age: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What `streamfleet-worker --join` takes, once.

    Attributes:
        device: The name of the device.
        token: The token: keep it secret until the device has joined.
    """

    device: str
    token: str

    def __repr__(self) -> str:
        return f"JoinToken(device={self.device!r}, token=…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """A program elsewhere that may subscribe. With neither pipelines nor a selector it receives all.

    Attributes:
        name: Its name.
        pipelines: The ids of pipelines that it may receive.
        selector: Labels of pipelines that it may receive, too.
    """

    name: str
    pipelines: tuple[str, ...]
    selector: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberKeys:
    """All that a program elsewhere needs to subscribe. The api keeps no copy of the secret key.

    Attributes:
        name: Of the subscriber.
        endpoint: The first of `endpoints`.
        endpoints: Where predictions are published, the best first.
        server_key: The public key of the publisher.
        public_key: Of the subscriber.
        secret_key: Of the subscriber.
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
    """A model that pipelines may name.

    Attributes:
        id: As pipelines name it.
        digest: The SHA-256 of its manifest.
        family: How it takes pictures and gives boxes. None, as all that follows: the manifest is not here.
        labels: The names of its classes.
        input_width: Pixels.
        input_height: Pixels.
        weights: The SHA-256 and size of the ONNX file.
    """

    id: str
    digest: str
    family: str | None
    labels: tuple[str, ...] | None
    input_width: int | None
    input_height: int | None
    weights: Weights | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedModel(Model):
    """A model after its registration.

    Attributes:
        replaces: The digest that the id stood for before, if it was another one.
    """

    replaces: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Pictures that pipelines picked for labelling.

    Attributes:
        dataset: Its name.
        samples: Pictures.
        size: Bytes.
        oldest: When its oldest picture was captured, in Unix seconds.
        newest: The same of its newest.
        pipelines: The ids of the pipelines that picked them.
        devices: The names of the devices that sent them.
    """

    dataset: str
    samples: int
    size: int
    oldest: float
    newest: float
    pipelines: tuple[str, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a pipeline, a device or a process of the fleet.

    Attributes:
        epoch: Rises with each start of the broker.
        n: Rises with each event of an epoch.
        at: Unix seconds.
        subject: `pipeline`, `device` or `process`.
        id: Of the pipeline, or the name of the device or process.
        state: The new state, `gone` if it was deleted.
        previous: The state before; empty if it is new.
        device: The device of a pipeline.
        reason: For people.
        restarts: Of the pipeline.
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
        """What `events(after=…)` takes to continue behind this event."""
        return f"{self.epoch}-{self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The api answers.

    Attributes:
        status: `ok`.
        pid: Of its process.
        warnings: What its operator should know.
    """

    status: str
    pid: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What the broker says of the fleet.

    Attributes:
        status: `ok`, or why it is not ready.
        epoch: Rises with each start of the broker.
        uptime: Seconds since then.
        devices_ready: Devices that can run pipelines now.
        devices: Devices that have joined.
        pipelines: Pipelines that exist.
    """

    status: str
    epoch: int
    uptime: float
    devices_ready: int
    devices: int
    pipelines: int

    @property
    def is_ready(self) -> bool:
        """Whether pipelines can run."""
        return self.devices_ready > 0
