"""What an operator may ask of the broker, and what comes back.

Dispatch is a literal table: nothing is ever looked up by a name from the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import Request
from streamfleet_broker.protocol.values import (
    CurveKey,
    Id,
    Labels,
    ModelId,
    ModelRef,
    Natural,
    ObservedState,
    PipelineSpec,
    Want,
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


# requests -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreatePipeline:
    """Wish for a pipeline. Reply: PipelineView. An id that exists with the same spec is answered again."""

    pipeline_id: Id
    spec: PipelineSpec
    device: Id | None = None  # None: whichever device has most room
    selector: Labels = field(default_factory=dict)  # of the devices that it may run on
    labels: Labels = field(default_factory=dict)
    want: Literal["run", "pause"] = "run"
    # A request that is made again under its key, within a day, gets the pipeline of the first; `conflict`
    # if that was deleted. The digest is of what was asked for: another one under the key is a `mismatch`.
    key: Annotated[str, Meta(max_length=255)] = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class PutPipeline:
    """Wish that a pipeline is exactly so. Reply: Put. Doing it again changes nothing.

    What can change while it plays (thresholds, fps, sinks, tracker, labels, want) changes so, also after its
    end, which it does not undo; another model, source or device begins a new playing. The device stays the
    same unless another one is named or it does not meet the selector, and on another one nothing begins
    before the first has confirmed that it stopped, or was lost. With `expected`, it is refused as `conflict`
    when the pipeline has another `version` by now, or is not there.
    """

    pipeline_id: Id
    spec: PipelineSpec
    device: Id | None = None
    selector: Labels = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    want: Literal["run", "pause"] = "run"
    expected: Natural | None = None
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0


@dataclass(frozen=True, slots=True)
class RestartPipeline:
    """Play from the beginning, a file that has ended too. Reply: PipelineView."""

    pipeline_id: Id


@dataclass(frozen=True, slots=True)
class ChangePipeline:
    """Wish that a pipeline runs, pauses or stops. Reply: Changed.

    The change is durable before the reply; the reply waits at most `wait_ms` for the device to confirm.
    """

    pipeline_id: Id
    want: Want
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0


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
    ttl: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 900.0  # seconds


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
    """Forget a device that is away and has no pipelines, its key and its tokens. Reply: None.

    `conflict` says what is in the way. Its key is refused from then on, also on a connection that it has.
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
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0


@dataclass(frozen=True, slots=True)
class AddSubscriber:
    """Make a key for a program that subscribes over TCP. Reply: Subscription."""

    name: Id
    device: Id | None = None  # subscribe to this device itself; None: through the relay


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
class GetFleet:
    """Reply: FleetView."""


OperatorRequest = (
    CreatePipeline
    | PutPipeline
    | RestartPipeline
    | ChangePipeline
    | ListPipelines
    | GetPipeline
    | ListDevices
    | AddDevice
    | GetDevice
    | LabelDevice
    | RemoveDevice
    | AddSubscriber
    | PutModel
    | RemoveModel
    | ListModels
    | CheckTicket
    | GetFleet
    | GetEvents
)

OPERATIONS: dict[str, type[OperatorRequest]] = {
    "pipeline.create": CreatePipeline,
    "pipeline.put": PutPipeline,
    "pipeline.restart": RestartPipeline,
    "pipeline.change": ChangePipeline,
    "pipeline.list": ListPipelines,
    "pipeline.get": GetPipeline,
    "device.list": ListDevices,
    "device.add": AddDevice,
    "device.get": GetDevice,
    "device.label": LabelDevice,
    "device.remove": RemoveDevice,
    "subscriber.add": AddSubscriber,
    "model.put": PutModel,
    "model.remove": RemoveModel,
    "model.list": ListModels,
    "ticket.check": CheckTicket,
    "fleet.get": GetFleet,
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


@dataclass(frozen=True, slots=True)
class PipelineView:
    """A pipeline as the broker knows it."""

    pipeline_id: Id
    gen: Natural
    want: Want
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
    version: Natural = 0  # +1 at any change of what is wished for, labels too
    created_at: float = 0.0  # Unix seconds


@dataclass(frozen=True, slots=True)
class Changed:
    """The wish is durable; `confirmed` tells whether the device has done it yet."""

    pipeline: PipelineView
    confirmed: bool


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as the broker knows it.

    `pipelines` counts those that are wished for there, running or paused, and not what has ended or failed:
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
    """The wish is durable. `confirmed`: the device has done it."""

    pipeline: PipelineView
    created: bool
    changed: bool
    confirmed: bool


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """One thing that happened to a pipeline or a device."""

    n: Natural  # +1 each, from 1 at each start of a broker
    at: float  # Unix seconds
    subject: Literal["pipeline", "device"]
    id: Id
    state: str  # a PipelineStatus or DeviceState, or `gone`
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


@dataclass(frozen=True, slots=True)
class Subscription:
    """All that a subscriber over TCP needs. The secret key is kept nowhere else."""

    name: Id
    endpoint: str
    server_key: CurveKey
    public_key: CurveKey
    secret_key: CurveKey


@dataclass(frozen=True, slots=True)
class FleetView:
    """The broker itself."""

    epoch: Natural
    uptime: float  # seconds
    devices_ready: Natural
    devices: Natural
    pipelines: Natural
