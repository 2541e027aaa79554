"""The operators' plane: executes requests and replies."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from typing_extensions import assert_never

from streamfleet_broker.fleet.device_plane.confirmations import DeviceConfirmations
from streamfleet_broker.fleet.devices import Asker, Device, OperatorPeer
from streamfleet_broker.fleet.effects import Answer, LogEvent, Send
from streamfleet_broker.fleet.event_listeners import EventListeners
from streamfleet_broker.fleet.moving.drains import Drains
from streamfleet_broker.fleet.moving.handovers import Handovers
from streamfleet_broker.fleet.moving.planning import Planner
from streamfleet_broker.fleet.moving.rebalancing import Rebalancing
from streamfleet_broker.fleet.moving.rollouts import Rollouts
from streamfleet_broker.fleet.optimisations import Optimisations
from streamfleet_broker.fleet.pipeline_status import spelled
from streamfleet_broker.fleet.pipelines import Pipelines
from streamfleet_broker.fleet.queries import FleetQueries
from streamfleet_broker.fleet.records import Drain, ModelRecord, SubscriberRecord, TokenRecord
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State, no_pipeline
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import Drill, Error, Refused, Reply, Request, Subscribers
from streamfleet_core.protocol.requests import (
    AddDevice,
    AddSubscriber,
    ApplyPipelines,
    ChangePipeline,
    ChangePipelines,
    CheckHolder,
    CheckTicket,
    CordonDevice,
    CreatePipeline,
    DrainDevice,
    DrillDevice,
    EndOptimisation,
    FindOptimisation,
    GetDevice,
    GetEvents,
    GetFigures,
    GetFleet,
    GetPipeline,
    LabelDevice,
    ListCosts,
    ListDevices,
    ListModels,
    ListPipelines,
    ListSubscribers,
    OperatorRequest,
    PlanPipelines,
    PutModel,
    PutPipeline,
    RebalanceDevices,
    RemoveDevice,
    RemoveModel,
    RemoveSubscriber,
    ReportProcess,
    RestartPipeline,
    StartOptimisation,
    SubscriberView,
    Subscription,
    Token,
    unpack_request,
)
from streamfleet_core.protocol.tasks.rollouts import CancelRollout, GetRollout, ListRollouts, StartRollout

MAX_SUBSCRIBERS = 1000  # their keys travel in one message

Query = (
    PlanPipelines
    | ListCosts
    | ListPipelines
    | GetPipeline
    | ListDevices
    | GetDevice
    | ListModels
    | CheckTicket
    | CheckHolder
    | GetFleet
    | GetFigures
)
DeviceChange = AddDevice | LabelDevice | CordonDevice | DrainDevice | RemoveDevice | DrillDevice


class Operators:
    """Executes the requests of operators."""

    def __init__(
        self,
        state: State,
        scheduler: Scheduler,
        queries: FleetQueries,
        confirmations: DeviceConfirmations,
        pipelines: Pipelines,
        event_listeners: EventListeners,
        optimisations: Optimisations,
        *,
        handovers: Handovers,
        drains: Drains,
        rebalancing: Rebalancing,
        rollouts: Rollouts,
    ) -> None:
        self._state = state
        self._confirmations = confirmations
        self._scheduler = scheduler
        self._queries = queries
        self._pipelines = pipelines
        self._planner = Planner(state, scheduler)
        self._event_listeners = event_listeners
        self._optimisations = optimisations
        self._handovers = handovers
        self._drains = drains
        self._rebalancing = rebalancing
        self._rollouts = rollouts

    def receive(self, peer: OperatorPeer, envelope: Envelope, now: float) -> None:
        """Handle a message of an operator."""
        message = envelope.message
        outcome: Reply | Error | None
        if not isinstance(message, Request):
            outcome = Error("bad_message", str(BadMessage("a Request", type(message).__name__)))
        else:
            try:
                asker = Asker(peer.routing_id, envelope.request_id)
                outcome = self._do(unpack_request(message), asker, now)
            except BadMessage as exc:
                outcome = Error("bad_message", str(exc))
            except msgspec.ValidationError as exc:
                outcome = Error("invalid", f"{message.op}: {exc}")
        if outcome is not None:
            self._state.after_commit.append(Answer(peer.routing_id, envelope.request_id, outcome))

    def _do(self, request: OperatorRequest, asker: Asker, now: float) -> Reply | Error | None:
        """Execute a request. The reply, or None if it follows later."""
        match request:
            case (
                CreatePipeline()
                | PutPipeline()
                | RestartPipeline()
                | ChangePipeline()
                | ChangePipelines()
                | ApplyPipelines()
            ):
                return self._pipelines.do(request, asker, now)
            case (
                AddDevice() | LabelDevice() | CordonDevice() | DrainDevice() | RemoveDevice() | DrillDevice()
            ):
                return self._do_of_devices(request, now)
            case AddSubscriber() | RemoveSubscriber() | ListSubscribers():
                return self._do_of_subscribers(request)
            case RebalanceDevices():
                return Reply(self._rebalancing.rebalance(request, now))
            case StartOptimisation() | FindOptimisation() | EndOptimisation():
                return self._optimisations.do(request, now)
            case StartRollout() | ListRollouts() | GetRollout() | CancelRollout():
                return self._rollouts.do(request, now)
            case PutModel() | RemoveModel():
                return self._do_of_models(request)
            case ReportProcess():
                self._state.reported.append(request)
                return Reply()
            case GetEvents():
                return self._event_listeners.listen(request, asker, now)
            case _:
                return self._look_up(request, now)

    def _look_up(self, request: Query, now: float) -> Reply | Error:
        match request:
            case ListPipelines():
                return Reply(self._queries.page(request, now))
            case GetPipeline():
                record = self._state.active_pipeline(request.pipeline_id)
                if record is None:
                    return no_pipeline(request.pipeline_id)
                return Reply(self._queries.view(record, now))
            case ListDevices() | GetDevice():
                return self._look_up_devices(request, now)
            case ListModels():
                models = self._state.records.models
                return Reply(tuple(models[model_id].ref for model_id in sorted(models)))
            case CheckTicket():
                return Reply(self._state.tickets.get(request.ticket))
            case CheckHolder():
                return Reply(self._state.holds(request.device, request.pipeline_id))
            case GetFleet() | GetFigures():
                is_brief = isinstance(request, GetFleet)
                return Reply(self._queries.fleet_view(now) if is_brief else self._queries.figures(now))
            case PlanPipelines() | ListCosts():
                return self._estimate(request)
            case _:
                assert_never(request)

    def _do_of_devices(self, request: DeviceChange, now: float) -> Reply | Error:
        match request:
            case AddDevice():
                return self._add_device(request, now)
            case LabelDevice():
                return self._label_device(request, now)
            case CordonDevice() | DrainDevice():
                return self._cordon_device(request, now)
            case RemoveDevice():
                return self._remove_device(request, now)
            case DrillDevice():
                return self._drill_device(request)
            case _:
                assert_never(request)

    def _look_up_devices(self, request: ListDevices | GetDevice, now: float) -> Reply | Error:
        if isinstance(request, ListDevices):
            return Reply(self._queries.device_page(request, now))
        device = self._queries.device_view(request.device, now)
        return self._state.no_device(request.device, "not_found") if device is None else Reply(device)

    def _estimate(self, request: PlanPipelines | ListCosts) -> Reply | Error:
        if isinstance(request, PlanPipelines):
            return self._planner.plan(request)
        return Reply(self._state.costs.of_model(request.digest))

    def _add_device(self, request: AddDevice, now: float) -> Reply:
        """Create a join token. It revokes earlier tokens of the same name."""
        for token in self._state.records.tokens_of(request.device):
            self._state.records.remove(token)
        pair = self._state.random_source.key_pair()
        record = TokenRecord(pair.public, request.device, self._state.wall(now) + request.ttl)
        self._state.records.write(record)
        self._state.after_commit += [
            self._state.allowed_keys("devices"),
            LogEvent(request.device, "may enrol once"),
        ]
        config = self._state.config
        token_line = JoinToken(
            device=request.device,
            endpoints=config.endpoints,
            broker_key=config.broker_key,
            secret_key=pair.secret,
            api_fingerprint=config.api_fingerprint(),
        ).encode()
        return Reply(Token(request.device, token_line))

    def _label_device(self, request: LabelDevice, now: float) -> Reply | Error:
        name = request.device
        known = self._state.records.devices.get(name)
        if known is None:
            return self._state.no_device(name, "not_found")
        if known.labels != request.labels:
            self._state.records.write(replace(known, labels=request.labels))
            self._state.after_commit.append(LogEvent(name, f"labels: {spelled(request.labels) or 'none'}"))
            for record in self._scheduler.movable(self._state.devices[name]):
                if not self._scheduler.meets(name, record.selector):
                    self._state.change(self._scheduler.moved(record, None, now))
                    self._state.after_commit.append(
                        LogEvent(record.pipeline_id, f"taken from {name}, which lost its labels")
                    )
            self._scheduler.place(now)
        return Reply(self._queries.device_view(name, now))

    def _cordon_device(self, request: CordonDevice | DrainDevice, now: float) -> Reply | Error:
        """Place nothing on a device any more, or again; drain it."""
        name = request.device
        known = self._state.records.devices.get(name)
        if known is None:
            return self._state.no_device(name, "not_found")
        if isinstance(request, DrainDevice):
            force_after = request.force_after
            force_at = None if force_after is None else self._state.wall(now) + force_after
            record, event = replace(known, cordoned=True, drain=Drain(force_at)), "is drained"
        elif request.cordoned:
            record, event = replace(known, cordoned=True), "cordoned"
        else:
            record, event = replace(known, cordoned=False, drain=None), "uncordoned"
        if record != known:
            self._state.records.write(record)
            self._state.records.concern(name)
            self._drains.tell(name, now)
            self._state.after_commit.append(LogEvent(name, event))
        if not record.cordoned:
            for pipeline in self._state.records.of_device(name):
                self._handovers.cancel(pipeline)
            self._scheduler.place(now)
        return Reply(self._queries.device_view(name, now))

    def _remove_device(self, request: RemoveDevice, now: float) -> Reply | Error:
        """Remove a device. Its next message is refused, also over existing connections."""
        name = request.device
        device, record = self._state.devices.get(name), self._state.records.devices.get(name)
        tokens = self._state.records.tokens_of(name)
        if device is None and not tokens:
            return self._state.no_device(name, "not_found")
        if device is not None and (why := self._why_needed(device)):
            return Error("conflict", why)
        for token in tokens:
            self._state.records.remove(token)
        if device is not None and record is not None:
            for arriving in self._state.records.standing_by(name):
                self._handovers.cancel(arriving)
            self._take_all_from(device, now)
            self._end(device)
            self._state.records.remove(record)
            self._state.forget_held(name)
            del self._state.devices[name]
            self._scheduler.place(now)
        self._state.after_commit += [
            self._state.allowed_keys("devices"),
            self._state.allowed_keys("relay-in"),
            LogEvent(name, "removed"),
        ]
        return Reply(None)

    def _drill_device(self, request: DrillDevice) -> Reply | Error:
        """Tell a device to cause a fault."""
        device = self._state.devices.get(request.device)
        if device is None:
            return self._state.no_device(request.device, "not_found")
        if not device.drills:
            text = f"device {device.name} takes part in no drills: start its worker with --allow-drills"
            return Error("conflict", text)
        if device.session is None or device.state != "ready":
            return Error("conflict", f"device {device.name} is {device.state}, and not ready for a drill")
        drill = Drill(request.fault, request.pipeline_id, request.seconds)
        self._state.after_commit += [
            Send(device.session.routing_id, drill, device.session.id),
            LogEvent(device.name, f"drill: {request.fault}"),
        ]
        return Reply(None)

    def _why_needed(self, device: Device) -> str:
        """Why a device cannot be removed: the pipelines that no other device can run."""
        needed = [
            record
            for record in self._state.records.of_device(device.name)
            if record.desired_status != "stop" and (record.pinned or self._state.has_ended(record))
        ]
        if not needed:
            return ""
        first = ", ".join(record.pipeline_id for record in needed[:3])
        text = first if len(needed) <= 3 else f"{first} and {len(needed) - 3} more"
        return f"device {device.name} has pipelines: end {text}, or put them on another device"

    def _take_all_from(self, device: Device, now: float) -> None:
        """Move or remove the pipelines of a device, without waiting for its confirmation."""
        for record in self._state.records.of_device(device.name):
            if record.leaving is not None:
                self._state.change(replace(record, device=None, standby=None))
            elif record.desired_status == "stop":
                self._confirmations.remove(record, now, done=False)
            else:
                self._state.change(replace(self._scheduler.moved(record, None, now), leaving=None))
        for record in self._state.records.taken_from(device.name):
            self._confirmations.give_free(record, now, done=False)

    def _end(self, device: Device) -> None:
        """Tell a connected device that it was removed, and end its session."""
        self._state.mark_device_dirty(device.name)
        self._state.changed.discard(device.name)
        if device.session is not None:
            session = device.session
            self._state.after_commit.append(
                Send(session.routing_id, Refused("revoked", "this device was removed"), session.id)
            )
            self._state.end_session(device)

    def _do_of_subscribers(
        self, request: AddSubscriber | RemoveSubscriber | ListSubscribers
    ) -> Reply | Error:
        match request:
            case AddSubscriber():
                return self._add_subscriber(request)
            case RemoveSubscriber():
                return self._remove_subscriber(request)
            case ListSubscribers():
                records = sorted(self._state.records.subscribers.values(), key=lambda record: record.name)
                return Reply(
                    tuple(SubscriberView(each.name, each.pipelines, each.selector) for each in records)
                )
            case _:
                assert_never(request)

    def _add_subscriber(self, request: AddSubscriber) -> Reply | Error:
        """Add a subscriber. An existing name gets a new key, and connections with the old one are closed."""
        subscribers = self._state.records.subscribers
        if request.device is not None and (request.pipelines or request.selector):
            return Error("invalid", "a device cannot enforce limits: subscribe through the relay")
        source = self._source_of(request.device)
        if isinstance(source, Error):
            return source
        if request.name not in subscribers and len(subscribers) >= MAX_SUBSCRIBERS:
            return Error("too_many", f"there are {MAX_SUBSCRIBERS} subscribers already")
        pair = self._state.random_source.key_pair()
        self._state.records.write(
            SubscriberRecord(request.name, pair.public, request.pipelines, request.selector)
        )
        self._notify_subscribers(LogEvent(request.name, "may subscribe"))
        endpoints, server_key = source
        return Reply(
            Subscription(
                name=request.name,
                endpoint=endpoints[0],
                server_key=server_key,
                public_key=pair.public,
                secret_key=pair.secret,
                endpoints=endpoints,
            )
        )

    def _remove_subscriber(self, request: RemoveSubscriber) -> Reply | Error:
        record = self._state.records.subscribers.get(request.name)
        if record is None:
            known = ", ".join(sorted(self._state.records.subscribers)) or "none"
            return Error("not_found", f"no subscriber {request.name}, the known ones are: {known}")
        self._state.records.remove(record)
        self._notify_subscribers(LogEvent(request.name, "may subscribe no longer"))
        return Reply(None)

    def _notify_subscribers(self, event: LogEvent) -> None:
        """Send the keys of all subscribers to the relay and to every device."""
        self._state.subscribers_revision += 1
        message = Subscribers(self._state.subscribers_revision, self._state.subscriber_keys())
        self._state.after_commit += [self._state.allowed_keys("relay-out"), event]
        self._state.after_commit += [
            Send(device.session.routing_id, message, device.session.id)
            for _, device in sorted(self._state.devices.items())
            if device.session is not None
        ]

    def _source_of(self, name: str | None) -> tuple[tuple[str, ...], str] | Error:
        """The endpoints to subscribe to, and their public key: those of the relay, or of a device."""
        if name is None:
            return self._state.config.subscribe_endpoints, self._state.config.broker_key
        device = self._state.devices.get(name)
        if device is None:
            return self._state.no_device(name)
        if not device.publish:
            text = f"device {name} has no PUB socket of its own; start its worker with --publish-port"
            return Error("invalid", text)
        return device.publish, self._state.records.devices[name].public_key

    def _do_of_models(self, request: PutModel | RemoveModel) -> Reply | Error:
        return self._put_model(request) if isinstance(request, PutModel) else self._remove_model(request)

    def _put_model(self, request: PutModel) -> Reply:
        known, model = self._state.records.models.get(request.model.id), request.model
        if known is None or known.ref != model:
            costs = self._state.costs.of_model(model.digest)
            self._state.records.write(ModelRecord(model.id, model.digest, costs))
        return Reply(model)

    def _remove_model(self, request: RemoveModel) -> Reply | Error:
        model = self._state.records.models.get(request.model_id)
        if model is None:
            return Error("not_found", f"no model {request.model_id}")
        self._state.records.remove(model)
        return Reply(model.ref)
