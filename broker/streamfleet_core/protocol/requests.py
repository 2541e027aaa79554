"""What an operator may ask of the broker, and what comes back.

Dispatch is a literal table: nothing is ever looked up by a name from the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import (
    MAX_CHANGES,
    MAX_GRANTED,
    MAX_REASON,
    MAX_REQUEST_KEY,
    MAX_TOKEN_TTL,
    MAX_WAIT_MS,
)
from streamfleet_core.protocol.messages import ErrorCode, Request
from streamfleet_core.protocol.values import (
    CurveKey,
    DesiredStatus,
    Id,
    Labels,
    ModelId,
    ModelRef,
    Natural,
    ObservedState,
    PipelineSpec,
    from_plain,
    to_plain,
)

DeviceState = Literal["new", "syncing", "ready", "suspect", "lost", "left", "quarantined"]
PipelineStatus = Literal[
    "pending",  # no device has room, or the named one is away: `reason` says it
    "starting",
    "running",
    "paused",
    "reconnecting",
    "unknown",  # its device is suspect: last known state
    "moving",
    "backoff",
    "failed",
    "ended",
    "stopping",
]

Change = DesiredStatus | Literal["restart"]


# requests -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePipeline:
    """Create a pipeline. Reply: PipelineView. An id that exists with the same spec is answered again."""

    pipeline_id: Id
    spec: PipelineSpec
    device: Id | None = None  # None: whichever device has most room
    selector: Labels = field(default_factory=dict)  # of the devices that it may run on
    labels: Labels = field(default_factory=dict)
    desired_status: Literal["run", "pause"] = "run"
    # A request that is made again under its key, within a day, gets the pipeline of the first; `conflict`
    # if that was deleted. The digest is of what was asked for: another one under the key is a `mismatch`.
    key: Annotated[str, Meta(max_length=MAX_REQUEST_KEY)] = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutPipeline:
    """Create a pipeline, or make it exactly so. Reply: Put. Doing it again changes nothing.

    What can change while it runs (thresholds, fps, sinks, tracker, labels, desired status) changes so, also
    after its end, which it does not undo; another model, source or device restarts it. The device stays the
    same unless another one is named or it does not meet the selector, and on another one nothing begins
    before the first has confirmed that it stopped, or was lost. With `expected`, it is refused as `conflict`
    when the pipeline has another `version` by now, or is not there.
    """

    pipeline_id: Id
    spec: PipelineSpec
    device: Id | None = None
    selector: Labels = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    desired_status: Literal["run", "pause"] = "run"
    expected: Natural | None = None
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True)
class RestartPipeline:
    """Play from the beginning, a file that has ended too. Reply: PipelineView."""

    pipeline_id: Id


@dataclass(frozen=True, slots=True)
class ChangePipeline:
    """Run, pause or stop a pipeline. Reply: Changed.

    The change is durable before the reply; the reply waits at most `wait_ms` for the device to confirm.
    """

    pipeline_id: Id
    desired_status: DesiredStatus
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True)
class ChangePipelines:
    """Change many pipelines in the same way, in one write. Reply: tuple[Outcome, ...], one for each id.

    One that cannot be changed does not keep back the others. The reply waits at most `wait_ms` for their
    devices to confirm, all of them together.
    """

    pipeline_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_CHANGES)]
    change: Change
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True)
class ListPipelines:
    """Reply: tuple[PipelineView, ...], oldest first."""


@dataclass(frozen=True, slots=True)
class GetPipeline:
    """Reply: PipelineView."""

    pipeline_id: Id


@dataclass(frozen=True, slots=True)
class ListDevices:
    """Reply: tuple[DeviceView, ...], by name."""


@dataclass(frozen=True, slots=True)
class AddDevice:
    """Let a device of this name enrol once. Reply: Token."""

    device: Id
    ttl: Annotated[float, Meta(gt=0, le=MAX_TOKEN_TTL)] = 900.0  # seconds


@dataclass(frozen=True, slots=True)
class GetDevice:
    """Reply: DeviceView."""

    device: Id


@dataclass(frozen=True, slots=True)
class LabelDevice:
    """Let a device that has enrolled have exactly these labels. Reply: DeviceView.

    A pipeline whose selector the device no longer meets is moved, if it may move.
    """

    device: Id
    labels: Labels


@dataclass(frozen=True, slots=True)
class RemoveDevice:
    """Forget a device, its key and its tokens. Reply: None.

    What may move goes to others. What may not is in the way, and `conflict` says so. Its key is refused from
    then on, and its connections are cut within seconds.
    """

    device: Id


@dataclass(frozen=True, slots=True)
class RemoveModel:
    """Let pipelines name this id no longer; what runs goes on. Reply: the ModelRef that it was."""

    model_id: ModelId


@dataclass(frozen=True, slots=True)
class GetEvents:
    """What happened after event `after` of this epoch. Reply: Events, after `wait_ms` at most.

    Another epoch (0: none yet), or a number that is forgotten already, gets all that are still known.
    """

    epoch: Natural = 0
    after: Natural = 0
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True)
class AddSubscriber:
    """Make a key for a program that subscribes over TCP. Reply: Subscription.

    Of a limited one only the relay knows: it hears the topics of pipelines that are named or selected.
    """

    name: Id
    device: Id | None = None  # subscribe to this device itself; None: through the relay
    pipelines: Annotated[tuple[Id, ...], Meta(max_length=MAX_GRANTED)] = ()
    selector: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListSubscribers:
    """Reply: tuple[SubscriberView, ...], by name."""


@dataclass(frozen=True, slots=True)
class RemoveSubscriber:
    """Let a program subscribe no longer; its connections are cut within seconds. Reply: None."""

    name: Id


@dataclass(frozen=True, slots=True)
class PutModel:
    """Let pipelines name this content by this id. Reply: ModelRef."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class ListModels:
    """Reply: tuple[ModelRef, ...], by id."""


@dataclass(frozen=True, slots=True)
class CheckTicket:
    """May the holder of this ticket fetch bulk? Reply: the device's name, or None."""

    ticket: str


@dataclass(frozen=True, slots=True)
class CheckHolder:
    """Has a device this pipeline, or had it, so that it may put samples of it? Reply: bool."""

    device: Id
    pipeline_id: Id


@dataclass(frozen=True, slots=True)
class ReportProcess:
    """Whoever supervises a process of the fleet tells what became of it: an event. Reply: None."""

    name: Id
    reason: Annotated[str, Meta(max_length=MAX_REASON)]


@dataclass(frozen=True, slots=True)
class GetFleet:
    """Reply: FleetView."""


OperatorRequest = (
    CreatePipeline
    | PutPipeline
    | RestartPipeline
    | ChangePipeline
    | ChangePipelines
    | ListPipelines
    | GetPipeline
    | ListDevices
    | AddDevice
    | GetDevice
    | LabelDevice
    | RemoveDevice
    | AddSubscriber
    | ListSubscribers
    | RemoveSubscriber
    | PutModel
    | RemoveModel
    | ListModels
    | CheckTicket
    | CheckHolder
    | GetFleet
    | ReportProcess
    | GetEvents
)

OPERATIONS: dict[str, type[OperatorRequest]] = {
    "pipeline.create": CreatePipeline,
    "pipeline.put": PutPipeline,
    "pipeline.restart": RestartPipeline,
    "pipeline.change": ChangePipeline,
    "pipelines.change": ChangePipelines,
    "pipeline.list": ListPipelines,
    "pipeline.get": GetPipeline,
    "device.list": ListDevices,
    "device.add": AddDevice,
    "device.get": GetDevice,
    "device.label": LabelDevice,
    "device.remove": RemoveDevice,
    "subscriber.add": AddSubscriber,
    "subscriber.list": ListSubscribers,
    "subscriber.remove": RemoveSubscriber,
    "model.put": PutModel,
    "model.remove": RemoveModel,
    "model.list": ListModels,
    "ticket.check": CheckTicket,
    "holder.check": CheckHolder,
    "fleet.get": GetFleet,
    "process.report": ReportProcess,
    "event.list": GetEvents,
}
_NAMES: dict[type[OperatorRequest], str] = {of: op for op, of in OPERATIONS.items()}


def pack_request(request: OperatorRequest) -> Request:
    """The request as a message."""
    return Request(_NAMES[type(request)], to_plain(request))


def unpack_request(message: Request) -> OperatorRequest:
    """The request in a message.

    Raises: BadMessage for an operation that is not in the table, msgspec.ValidationError for wrong arguments.
    """
    of = OPERATIONS.get(message.op)
    if of is None:
        raise BadMessage(f"one of {', '.join(sorted(OPERATIONS))}", repr(message.op[:64]))
    return from_plain(message.args, of)


# replies --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineView:
    """A pipeline as the broker knows it."""

    pipeline_id: Id
    generation: Natural
    desired_status: DesiredStatus
    status: PipelineStatus
    device: Id | None
    pinned: bool  # stays on its device whatever happens
    spec: PipelineSpec
    observed: ObservedState | None = None  # what the device said last
    reason: str = ""  # for people: why it does not run, or what the device said
    restarts: Natural = 0
    requested: Id | None = None  # the device that was asked for by name
    selector: Labels = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    version: Natural = 0  # +1 at any change of the desired state, labels too
    created_at: float = 0.0  # Unix seconds


@dataclass(frozen=True, slots=True)
class Changed:
    """The change is durable; `confirmed` tells whether the device has done it yet."""

    pipeline: PipelineView
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of many changes."""

    pipeline_id: Id
    confirmed: bool = False  # the device has done it, or nobody need confirm it
    refusal: ErrorCode | None = None  # None: the change is durable
    message: str = ""  # for people: why it was refused


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A device as the broker knows it.

    `pipelines` counts those that should run or be paused there, and not what has ended or failed:
    it is what takes of the `capacity`.
    """

    device: Id
    state: DeviceState
    capacity: Natural = 0
    pipelines: Natural = 0
    agent: str = ""
    silent: float | None = None  # seconds since it was last heard, None when never
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Put:
    """The pipeline is durable. `confirmed`: the device has done it."""

    pipeline: PipelineView
    created: bool
    changed: bool
    confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """One thing that happened to a pipeline, a device or a process of the fleet."""

    n: Natural  # +1 each, from 1 at each start of a broker
    at: float  # Unix seconds
    subject: Literal["pipeline", "device", "process"]
    id: Id
    state: str  # a PipelineStatus or DeviceState, or `gone`; of a process `restarting`
    previous: str  # "" when it is new
    device: Id | None = None  # of the pipeline
    reason: str = ""  # for people
    restarts: Natural = 0


@dataclass(frozen=True, slots=True)
class Events:
    """Oldest first. `lost`: what came between `after` and the first of these is not known any more."""

    epoch: Natural
    events: tuple[FleetEvent, ...]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """What `streamfleet-worker --join` takes."""

    device: Id
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """All that a subscriber over TCP needs. The secret key is kept nowhere else."""

    name: Id
    endpoint: str  # the best of `endpoints`
    server_key: CurveKey
    public_key: CurveKey
    secret_key: CurveKey
    endpoints: tuple[str, ...] = ()  # all under which it may be reached


@dataclass(frozen=True, slots=True)
class SubscriberView:
    """A program that may subscribe over TCP. With neither pipelines nor a selector it hears all."""

    name: Id
    pipelines: tuple[Id, ...] = ()
    selector: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """The broker itself."""

    epoch: Natural
    uptime: float  # seconds
    devices_ready: Natural
    devices: Natural
    pipelines: Natural
