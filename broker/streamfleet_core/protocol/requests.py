"""The requests of operators to the broker, and their replies.

Dispatch uses a literal table: no code is looked up by a name from the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from streamfleet_core.protocol.costs import DeviceLoad, Need
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.limits import (
    MAX_APPLIED,
    MAX_CHANGES,
    MAX_FORCE_AFTER,
    MAX_GRANTED,
    MAX_REASON,
    MAX_REQUEST_KEY,
    MAX_SEEN,
    MAX_TOKEN_TTL,
    MAX_WAIT_MS,
)
from streamfleet_core.protocol.messages import DrillFault, DrillSeconds, ErrorCode, Request
from streamfleet_core.protocol.tasks.optimisation import Optimisation
from streamfleet_core.protocol.tasks.rollouts import (
    CancelRollout,
    GetRollout,
    ListRollouts,
    RolloutRequest,
    StartRollout,
)
from streamfleet_core.protocol.values import (
    CurveKey,
    DesiredStatus,
    Id,
    Labels,
    ModelId,
    ModelRef,
    Natural,
    ObservedState,
    OnDisconnect,
    PipelineSpec,
    Sha256,
    from_plain,
    to_plain,
)

# Where a device sends: heartbeats to the broker, or predictions, statuses and previews to its relays.
Plane = Literal["control", "data"]
DeviceState = Literal["new", "syncing", "ready", "suspect", "lost", "left", "quarantined"]
PipelineStatus = Literal[
    "pending",  # no device has capacity, or the named one is absent: see `reason`
    "starting",
    "running",
    "paused",
    "reconnecting",
    "unknown",  # its device is suspect; this was its last known state
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
    """Create a pipeline. Reply: PipelineView, also if the id exists with the same spec."""

    pipeline_id: Id
    spec: PipelineSpec
    device: Id | None = None  # None: the device with the most free capacity
    selector: Labels = field(default_factory=dict)  # selects the devices on which it may run
    labels: Labels = field(default_factory=dict)
    # Without the broker; None: `continue` for a named device, a file or a local camera, `stop` otherwise.
    # With `continue` it never moves to another device.
    on_disconnect: OnDisconnect | None = None
    desired_status: Literal["run", "pause"] = "run"
    # Idempotency key: a repeated request within a day returns the pipeline of the first; `conflict` if that
    # was deleted. `digest` is the digest of the request: another one under the same key is a `mismatch`.
    key: Annotated[str, Meta(max_length=MAX_REQUEST_KEY)] = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutPipeline:
    """Create a pipeline, or update it to exactly this state. Idempotent. Reply: Put.

    Thresholds, fps, sinks, tracker, labels and desired status change without a restart, also after the end of
    a run, which stays ended. Another model, source or device restarts the pipeline. The device stays the same
    unless another one is named or it does not match the selector. On another device, nothing starts before
    the first one has confirmed the stop, or is lost. With `expected`, the request is refused as `conflict` if
    the pipeline has another `version` or does not exist.
    """

    pipeline_id: Id
    spec: PipelineSpec
    device: Id | None = None
    selector: Labels = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    on_disconnect: OnDisconnect | None = None  # as in `CreatePipeline`; a change restarts the pipeline
    desired_status: Literal["run", "pause"] = "run"
    expected: Natural | None = None
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True)
class RestartPipeline:
    """Start a new run from the beginning, also of an ended file. Reply: PipelineView."""

    pipeline_id: Id


@dataclass(frozen=True, slots=True)
class ChangePipeline:
    """Run, pause or stop a pipeline. Reply: Changed.

    The change is durable before the reply. The reply waits up to `wait_ms` for the device to confirm.
    """

    pipeline_id: Id
    desired_status: DesiredStatus
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True)
class ChangePipelines:
    """Apply one change to many pipelines, in one write. Reply: tuple[Outcome, ...], one for each id.

    A refused change does not prevent the others. The reply waits up to `wait_ms` in total for the devices to
    confirm.
    """

    pipeline_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_CHANGES)]
    change: Change
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredPipeline:
    """A pipeline as it should be: the same as `PutPipeline` says."""

    pipeline_id: Id
    spec: PipelineSpec
    device: Id | None = None
    selector: Labels = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    on_disconnect: OnDisconnect | None = None
    desired_status: Literal["run", "pause"] = "run"


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """What an operator sets of a device."""

    labels: Labels
    cordoned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPipelines:
    """Put and stop many pipelines in one write. Reply: tuple[Applied, ...], first of puts, then of stops.

    Everything is refused as `conflict` unless each pipeline in `seen` has this version (0: there is none),
    and `seen` has every pipeline with the labels `owned`. After that, the refusal of one pipeline does not
    prevent the others. With `dry_run` nothing changes, and the reply says what would.
    """

    puts: Annotated[tuple[DesiredPipeline, ...], Meta(max_length=MAX_APPLIED)] = ()
    stops: Annotated[tuple[Id, ...], Meta(max_length=MAX_APPLIED)] = ()
    seen: Annotated[dict[Id, Natural], Meta(max_length=MAX_SEEN)] = field(default_factory=dict)
    owned: Labels = field(default_factory=dict)  # none: no pipeline
    dry_run: bool = False
    # For a dry run: what devices will be before the pipelines are put.
    devices: Annotated[dict[Id, DeviceSettings], Meta(max_length=MAX_SEEN)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPipelines:
    """Say where pipelines would go, without changing anything. Reply: Plan.

    They are placed by priority, then in their order, as if those before them were there. A pipeline that
    exists is planned as if it did not.
    """

    pipelines: Annotated[tuple[DesiredPipeline, ...], Meta(min_length=1, max_length=MAX_APPLIED)]


@dataclass(frozen=True, slots=True)
class ListCosts:
    """List what pipelines of a model cost, as devices have measured. Reply: tuple[BoardCost, ...]."""

    digest: Sha256  # of the manifest


@dataclass(frozen=True, slots=True)
class ListPipelines:
    """List the pipelines. Reply: tuple[PipelineView, ...], oldest first: all, or a page of them.

    An older broker ignores the fields, and returns all, with an `order` of 0.
    """

    after: Natural = 0  # the `order` of the last pipeline of the page before; 0: from the first
    limit: Natural = 0  # pipelines of a page; 0: all


@dataclass(frozen=True, slots=True)
class GetPipeline:
    """Look up a pipeline. Reply: PipelineView."""

    pipeline_id: Id


@dataclass(frozen=True, slots=True)
class ListDevices:
    """List the devices. Reply: tuple[DeviceView, ...], by name: all, or a page of them.

    An older broker ignores the fields, and returns all.
    """

    after: Id | None = None  # the last device of the page before; None: from the first
    limit: Natural = 0  # devices of a page; 0: all


@dataclass(frozen=True, slots=True)
class AddDevice:
    """Create a join token, with which a device of this name enrols once. Reply: Token."""

    device: Id
    ttl: Annotated[float, Meta(gt=0, le=MAX_TOKEN_TTL)] = 900.0  # seconds


@dataclass(frozen=True, slots=True)
class GetDevice:
    """Look up a device. Reply: DeviceView."""

    device: Id


@dataclass(frozen=True, slots=True)
class LabelDevice:
    """Replace the labels of an enrolled device. Reply: DeviceView.

    A movable pipeline whose selector no longer matches the device is moved.
    """

    device: Id
    labels: Labels


@dataclass(frozen=True, slots=True)
class CordonDevice:
    """Place no pipeline on an enrolled device any more, or again. Reply: DeviceView.

    What runs there goes on. Uncordoning ends a drain: what has not moved yet stays.
    """

    device: Id
    cordoned: bool = True


@dataclass(frozen=True, slots=True)
class DrainDevice:
    """Cordon a device, and move all pipelines away that can move. Reply: DeviceView.

    Its `remaining` tells how far it is. Each pipeline runs on until another device is ready for it. Files end
    first.
    """

    device: Id
    # Seconds after which nothing is waited for: files begin again elsewhere, and others move although no
    # device got ready for them. None: never.
    force_after: Annotated[float, Meta(ge=0, le=MAX_FORCE_AFTER)] | None = None


@dataclass(frozen=True, slots=True)
class RebalanceDevices:
    """Move running pipelines from devices with much load to others with less. Reply: Rebalance.

    Each runs on until another device is ready for it. Another request takes the place of moves that have not
    begun.
    """

    dry_run: bool = False  # only say what would move


@dataclass(frozen=True, slots=True)
class RemoveDevice:
    """Remove a device, its key and its tokens. Reply: None.

    Movable pipelines move to other devices; others cause a `conflict`. Its key is refused from then on, and
    its connections are cut within seconds.
    """

    device: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillDevice:
    """Cause a fault on a device on purpose. Reply: None, when the device was told.

    `conflict` if the device does not take part in drills, or is not ready.
    """

    device: Id
    fault: DrillFault
    pipeline_id: Id | None = None  # the camera of this pipeline; None: any
    seconds: DrillSeconds = 0.0  # of an isolation


@dataclass(frozen=True, slots=True)
class RemoveModel:
    """Remove a model id. Running pipelines keep its content. Reply: the removed ModelRef."""

    model_id: ModelId


@dataclass(frozen=True, slots=True)
class GetEvents:
    """Get the events after event `after` of this epoch; waits up to `wait_ms` for one. Reply: Events.

    Another epoch (0: none yet), or a number before the oldest known event, returns all known events.
    """

    epoch: Natural = 0
    after: Natural = 0
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


@dataclass(frozen=True, slots=True)
class AddSubscriber:
    """Create a key for a program that subscribes over TCP. Reply: Subscription.

    A limited subscriber connects to the relay only, and receives only the topics of the named or selected
    pipelines.
    """

    name: Id
    device: Id | None = None  # subscribe to this device directly; None: to the relay
    pipelines: Annotated[tuple[Id, ...], Meta(max_length=MAX_GRANTED)] = ()
    selector: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListSubscribers:
    """List the subscribers. Reply: tuple[SubscriberView, ...], by name."""


@dataclass(frozen=True, slots=True)
class RemoveSubscriber:
    """Revoke a subscriber's key; its connections are cut within seconds. Reply: None."""

    name: Id


@dataclass(frozen=True, slots=True)
class PutModel:
    """Assign this content to this model id. Reply: ModelRef."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class ListModels:
    """List the models. Reply: tuple[ModelRef, ...], by id."""


@dataclass(frozen=True, slots=True)
class CheckTicket:
    """Check a ticket for models and samples. Reply: the name of its device, or None."""

    ticket: str


@dataclass(frozen=True, slots=True)
class CheckHolder:
    """Check whether a device has or had this pipeline, and may send its samples. Reply: bool."""

    device: Id
    pipeline_id: Id


@dataclass(frozen=True, slots=True)
class StartOptimisation:
    """Let a device that is ready build variants of a model, one such task at a time. Reply: None.

    It is forgotten when the device or the broker starts again, and after a time in which it must have ended.
    """

    device: Id
    optimisation: Optimisation


@dataclass(frozen=True, slots=True)
class FindOptimisation:
    """Look up what a device is to build. Reply: Optimisation, or None if there is no task of this id."""

    id: Id
    device: Id | None = None  # that must have it; None: any


@dataclass(frozen=True, slots=True)
class EndOptimisation:
    """Cancel or complete a task of building variants. Reply: bool, whether there was one of this id."""

    id: Id


@dataclass(frozen=True, slots=True)
class ReportProcess:
    """The supervisor of a process of the fleet reports its failure, as an event. Reply: None."""

    name: Id
    reason: Annotated[str, Meta(max_length=MAX_REASON)]


@dataclass(frozen=True, slots=True)
class GetFleet:
    """Get the state of the broker. Reply: FleetView."""


@dataclass(frozen=True, slots=True)
class GetFigures:
    """Get what the broker knows for metrics, of the whole fleet. Reply: FleetFigures."""


OperatorRequest = (
    CreatePipeline
    | PutPipeline
    | RestartPipeline
    | ChangePipeline
    | ChangePipelines
    | ApplyPipelines
    | PlanPipelines
    | ListCosts
    | ListPipelines
    | GetPipeline
    | ListDevices
    | AddDevice
    | GetDevice
    | LabelDevice
    | CordonDevice
    | DrainDevice
    | RebalanceDevices
    | RemoveDevice
    | DrillDevice
    | AddSubscriber
    | ListSubscribers
    | RemoveSubscriber
    | PutModel
    | RemoveModel
    | ListModels
    | CheckTicket
    | CheckHolder
    | StartOptimisation
    | FindOptimisation
    | EndOptimisation
    | RolloutRequest
    | GetFleet
    | GetFigures
    | ReportProcess
    | GetEvents
)

OPERATIONS: dict[str, type[OperatorRequest]] = {
    "pipeline.create": CreatePipeline,
    "pipeline.put": PutPipeline,
    "pipeline.restart": RestartPipeline,
    "pipeline.change": ChangePipeline,
    "pipelines.change": ChangePipelines,
    "pipelines.apply": ApplyPipelines,
    "pipelines.plan": PlanPipelines,
    "model.costs": ListCosts,
    "pipeline.list": ListPipelines,
    "pipeline.get": GetPipeline,
    "device.list": ListDevices,
    "device.add": AddDevice,
    "device.get": GetDevice,
    "device.label": LabelDevice,
    "device.cordon": CordonDevice,
    "device.drain": DrainDevice,
    "device.rebalance": RebalanceDevices,
    "device.remove": RemoveDevice,
    "device.drill": DrillDevice,
    "subscriber.add": AddSubscriber,
    "subscriber.list": ListSubscribers,
    "subscriber.remove": RemoveSubscriber,
    "model.put": PutModel,
    "model.remove": RemoveModel,
    "model.list": ListModels,
    "ticket.check": CheckTicket,
    "holder.check": CheckHolder,
    "optimisation.start": StartOptimisation,
    "optimisation.find": FindOptimisation,
    "optimisation.end": EndOptimisation,
    "rollout.start": StartRollout,
    "rollout.list": ListRollouts,
    "rollout.get": GetRollout,
    "rollout.cancel": CancelRollout,
    "fleet.get": GetFleet,
    "fleet.figures": GetFigures,
    "process.report": ReportProcess,
    "event.list": GetEvents,
}
# Changes of one pipeline each: several may share a write.
SMALL_CHANGES = frozenset({"pipeline.create", "pipeline.put", "pipeline.restart", "pipeline.change"})
_NAMES: dict[type[OperatorRequest], str] = {of: op for op, of in OPERATIONS.items()}


def pack_request(request: OperatorRequest) -> Request:
    """Encode a request as a message."""
    return Request(_NAMES[type(request)], to_plain(request))


def unpack_request(message: Request) -> OperatorRequest:
    """Decode the request in a message.

    Raises: BadMessage for an unknown operation, msgspec.ValidationError for wrong arguments.
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
    pinned: bool  # never moves to another device
    spec: PipelineSpec
    observed: ObservedState | None = None  # the last report of its device
    reason: str = ""  # for users: why it does not run, or the reason from its device
    restarts: Natural = 0
    requested: Id | None = None  # the device that was requested by name
    selector: Labels = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    version: Natural = 0  # +1 at any change of the desired state, including labels
    created_at: float = 0.0  # Unix seconds
    on_disconnect: OnDisconnect | None = None  # as requested
    # Its place in the list, oldest first; 0: of an older broker.
    order: Natural = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """The change is durable. `confirmed`: the device has applied it."""

    pipeline: PipelineView
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one of many changes."""

    pipeline_id: Id
    confirmed: bool = False  # the device has applied it, or no confirmation is needed
    refusal: ErrorCode | None = None  # None: the change is durable
    message: str = ""  # for users: why it was refused


@dataclass(frozen=True, slots=True)
class Remaining:
    """A pipeline that is still on a device that is drained.

    moving: to the device in `reason`; waiting: it moves or ends later; staying: it never moves.
    """

    pipeline_id: Id
    state: Literal["moving", "waiting", "staying"]
    reason: str = ""  # for users


@dataclass(frozen=True, slots=True)
class Move:
    """A pipeline that moves from one device to another."""

    pipeline_id: Id
    source: Id
    target: Id


@dataclass(frozen=True, slots=True)
class Utilisation:
    """How much of its scarcest resource the pipelines of a device need: 1 is all of it."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Rebalance:
    """The moves in their order, and the devices whose load they change."""

    moves: tuple[Move, ...]
    devices: dict[Id, Utilisation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The result for one of the pipelines that are applied together."""

    pipeline_id: Id
    device: Id | None = None  # on which it is from now on; None: none yet, or it is stopped
    generation: Natural = 0
    restarts: bool = False  # a run of it was there, and another one begins
    refusal: ErrorCode | None = None  # None: the change is durable
    message: str = ""  # for users: why it was refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Where one pipeline would go."""

    pipeline_id: Id
    device: Id | None = None  # None: nowhere
    reason: str = ""  # for users: why nowhere
    need: Need | None = None  # there; None: nowhere


@dataclass(frozen=True, slots=True)
class Plan:
    """Where pipelines would go, in the order in which they were given, and the load of each device then."""

    pipelines: tuple[Planned, ...]
    devices: dict[Id, DeviceLoad]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A device as the broker knows it.

    `pipelines` counts those that should run or be paused there, without ended and failed ones: these use the
    `capacity`.
    """

    device: Id
    state: DeviceState
    capacity: Natural = 0
    pipelines: Natural = 0
    agent: str = ""
    silent: float | None = None  # seconds since its last message; None: never
    labels: Labels = field(default_factory=dict)
    dropped: dict[Plane, Natural] = field(default_factory=dict)  # messages beyond its budget, by this broker
    drills: bool = False  # it takes part in drills
    cordoned: bool = False  # no pipeline is placed on it
    draining: bool = False  # its pipelines are moved away
    remaining: tuple[Remaining, ...] = ()  # what is left of a drain
    load: DeviceLoad | None = None  # None: it has not joined


@dataclass(frozen=True, slots=True)
class Put:
    """The pipeline is durable. `confirmed`: the device has applied it."""

    pipeline: PipelineView
    created: bool
    changed: bool
    confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """An event of a pipeline, a device or a process of the fleet."""

    n: Natural  # counts from 1 at each start of the broker
    at: float  # Unix seconds
    subject: Literal["pipeline", "device", "process"]
    id: Id
    state: str  # a PipelineStatus or DeviceState, or `gone`; of a process `restarting`
    previous: str  # "" if it is new
    device: Id | None = None  # of the pipeline
    reason: str = ""  # for users
    restarts: Natural = 0


@dataclass(frozen=True, slots=True)
class Events:
    """Events, oldest first. `lost`: events between `after` and the first of these are no longer known."""

    epoch: Natural
    events: tuple[FleetEvent, ...]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """The token for `streamfleet-worker --join`."""

    device: Id
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """All that a subscriber over TCP needs. The secret key is not stored elsewhere."""

    name: Id
    endpoint: str  # the preferred one of `endpoints`
    server_key: CurveKey
    public_key: CurveKey
    secret_key: CurveKey
    endpoints: tuple[str, ...] = ()  # all alternatives


@dataclass(frozen=True, slots=True)
class SubscriberView:
    """A program that may subscribe over TCP. Without pipelines and selector it receives all topics."""

    name: Id
    pipelines: tuple[Id, ...] = ()
    selector: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """The state of the broker."""

    epoch: Natural
    uptime: float  # seconds
    devices_ready: Natural
    devices: Natural
    pipelines: Natural


@dataclass(frozen=True, slots=True)
class PipelineFigures:
    """What metrics tell of a pipeline beside its status document."""

    pipeline_id: Id
    status: PipelineStatus
    device: Id | None
    model: ModelId
    restarts: Natural

    @classmethod
    def of(cls, view: PipelineView) -> PipelineFigures:
        """Those of a view."""
        return cls(view.pipeline_id, view.status, view.device, view.spec.model.id, view.restarts)


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """What metrics tell of a device beside its status document."""

    device: Id
    state: DeviceState
    capacity: Natural
    pipelines: Natural
    silent: float | None
    dropped: dict[Plane, Natural]

    @classmethod
    def of(cls, view: DeviceView) -> DeviceFigures:
        """Those of a view."""
        return cls(view.device, view.state, view.capacity, view.pipelines, view.silent, view.dropped)


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """What the broker knows for metrics: itself, the pipelines by age, and the devices by name."""

    fleet: FleetView
    pipelines: tuple[PipelineFigures, ...]
    devices: tuple[DeviceFigures, ...]
