"""The operators' plane: every request, and its answer."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from typing_extensions import assert_never

from streamfleet_broker.effects import Answer, Audit, Send
from streamfleet_broker.facts import Facts
from streamfleet_broker.lookout import Lookout
from streamfleet_broker.movement import Movement
from streamfleet_broker.protocol.control import Envelope
from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import Error, Reply, Request, Subscribers
from streamfleet_broker.protocol.requests import (
    AddDevice,
    AddSubscriber,
    ChangePipeline,
    CheckTicket,
    CreatePipeline,
    GetDevice,
    GetEvents,
    GetFleet,
    GetPipeline,
    LabelDevice,
    ListDevices,
    ListModels,
    ListPipelines,
    OperatorRequest,
    PutModel,
    PutPipeline,
    RemoveDevice,
    RemoveModel,
    RestartPipeline,
    Subscription,
    Token,
    unpack_request,
)
from streamfleet_broker.protocol.tokens import JoinToken
from streamfleet_broker.records import SubscriberRecord, TokenRecord
from streamfleet_broker.roster import Asker, Device, OperatorPeer
from streamfleet_broker.state import State, no_pipeline
from streamfleet_broker.views import spelled
from streamfleet_broker.wishes import Wishes

MAX_SUBSCRIBERS = 1000  # their keys travel in one message

Query = ListPipelines | GetPipeline | ListDevices | GetDevice | ListModels | CheckTicket | GetFleet


class Operators:
    """Does what operators ask."""

    def __init__(
        self, state: State, movement: Movement, facts: Facts, wishes: Wishes, lookout: Lookout
    ) -> None:
        self._state = state
        self._movement = movement
        self._facts = facts
        self._wishes = wishes
        self._lookout = lookout

    def receive(self, peer: OperatorPeer, envelope: Envelope, now: float) -> None:
        """A message came."""
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
            self._state.then.append(Answer(peer.routing_id, envelope.request_id, outcome))

    def _do(self, request: OperatorRequest, asker: Asker, now: float) -> Reply | Error | None:
        """The answer to a request, or None when it comes later."""
        match request:
            case CreatePipeline() | PutPipeline() | RestartPipeline() | ChangePipeline():
                return self._wishes.do(request, asker, now)
            case AddDevice():
                return self._add_device(request, now)
            case LabelDevice():
                return self._label_device(request, now)
            case RemoveDevice():
                return self._remove_device(request)
            case AddSubscriber():
                return self._add_subscriber(request)
            case PutModel():
                return self._put_model(request)
            case RemoveModel():
                return self._remove_model(request)
            case GetEvents():
                return self._lookout.listen(request, asker, now)
            case _:
                return self._look_up(request, now)

    def _look_up(self, request: Query, now: float) -> Reply | Error:
        match request:
            case ListPipelines():
                records = sorted(self._state.ledger.pipelines.values(), key=lambda record: record.created)
                return Reply(self._facts.views([record for record in records if record.want != "stop"], now))
            case GetPipeline():
                record = self._state.wished(request.pipeline_id)
                if record is None:
                    return no_pipeline(request.pipeline_id)
                return Reply(self._facts.view(record, now))
            case ListDevices():
                return Reply(self._facts.device_views(now))
            case GetDevice():
                found = [view for view in self._facts.device_views(now) if view.device == request.device]
                return Reply(found[0]) if found else self._state.no_device(request.device, "not_found")
            case ListModels():
                return Reply(tuple(sorted(self._state.ledger.models.values(), key=lambda model: model.id)))
            case CheckTicket():
                return Reply(self._state.tickets.get(request.ticket))
            case GetFleet():
                return Reply(self._facts.fleet_view(now))
            case _:
                assert_never(request)

    def _add_device(self, request: AddDevice, now: float) -> Reply:
        """One token is good at a time: a new one ends those that were made for the name before."""
        for token in self._state.ledger.tokens_of(request.device):
            self._state.ledger.remove(token)
        pair = self._state.supply.key_pair()
        record = TokenRecord(pair.public, request.device, self._state.wall(now) + request.ttl)
        self._state.ledger.write(record)
        self._state.then += [self._state.allow("devices"), Audit(request.device, "may enrol once")]
        config = self._state.config
        token_line = JoinToken(request.device, config.endpoints, config.broker_key, pair.secret).encode()
        return Reply(Token(request.device, token_line))

    def _label_device(self, request: LabelDevice, now: float) -> Reply | Error:
        name = request.device
        known = self._state.ledger.devices.get(name)
        if known is None:
            return self._state.no_device(name, "not_found")
        if known.labels != request.labels:
            self._state.ledger.write(replace(known, labels=request.labels))
            self._state.then.append(Audit(name, f"labels: {spelled(request.labels) or 'none'}"))
            for record in self._movement.movable(self._state.devices[name]):
                if not self._movement.meets(name, record.selector):
                    self._state.change(self._movement.moved(record, None, now))
                    self._state.then.append(
                        Audit(record.pipeline_id, f"taken from {name}, which lost its labels")
                    )
            self._movement.place(now)
        (view,) = (view for view in self._facts.device_views(now) if view.device == name)
        return Reply(view)

    def _remove_device(self, request: RemoveDevice) -> Reply | Error:
        name = request.device
        device, record = self._state.devices.get(name), self._state.ledger.devices.get(name)
        tokens = self._state.ledger.tokens_of(name)
        if device is None and not tokens:
            return self._state.no_device(name, "not_found")
        if device is not None and (why := self._why_needed(device)):
            return Error("conflict", why)
        for token in tokens:
            self._state.ledger.remove(token)
        if record is not None:
            self._state.ledger.remove(record)
            del self._state.devices[name]
            self._state.stir_device(name)
        self._state.then += [
            self._state.allow("devices"),
            self._state.allow("relay-in"),
            Audit(name, "removed"),
        ]
        return Reply(None)

    def _why_needed(self, device: Device) -> str:
        """Why a device cannot be forgotten, and what to do about it."""
        name = device.name
        if device.state in ("syncing", "ready", "suspect"):
            return f"device {name} is {device.state}: stop its worker, and try again when that is gone"
        held = [*self._state.ledger.of_device(name), *self._state.ledger.taken_from(name)]
        if not held:
            return ""
        first = ", ".join(record.pipeline_id for record in held[:3])
        text = first if len(held) <= 3 else f"{first} and {len(held) - 3} more"
        return f"device {name} has pipelines: end {text}, or put them on another device"

    def _add_subscriber(self, request: AddSubscriber) -> Reply | Error:
        """A name that exists gets a new key. Who is connected with the old one stays until it reconnects."""
        subscribers = self._state.ledger.subscribers
        source = self._source_of(request.device)
        if isinstance(source, Error):
            return source
        if request.name not in subscribers and len(subscribers) >= MAX_SUBSCRIBERS:
            return Error("too_many", f"there are {MAX_SUBSCRIBERS} subscribers already")
        pair = self._state.supply.key_pair()
        self._state.ledger.write(SubscriberRecord(request.name, pair.public))
        self._state.subscribers_rev += 1
        message = Subscribers(self._state.subscribers_rev, self._state.subscriber_keys())
        self._state.then += [self._state.allow("relay-out"), Audit(request.name, "may subscribe")]
        self._state.then += [
            Send(device.session.routing_id, message, device.session.id)
            for _, device in sorted(self._state.devices.items())
            if device.session is not None
        ]
        endpoint, server_key = source
        return Reply(Subscription(request.name, endpoint, server_key, pair.public, pair.secret))

    def _source_of(self, name: str | None) -> tuple[str, str] | Error:
        """Where to subscribe, and the public key there: the relay, or a device itself."""
        if name is None:
            return self._state.config.subscribe_endpoint, self._state.config.broker_key
        device = self._state.devices.get(name)
        if device is None:
            return self._state.no_device(name)
        if not device.publish:
            text = f"device {name} has no PUB socket of its own; start its worker with --publish-port"
            return Error("invalid", text)
        return device.publish, self._state.ledger.devices[name].public_key

    def _put_model(self, request: PutModel) -> Reply:
        if self._state.ledger.models.get(request.model.id) != request.model:
            self._state.ledger.write(request.model)
        return Reply(request.model)

    def _remove_model(self, request: RemoveModel) -> Reply | Error:
        model = self._state.ledger.models.get(request.model_id)
        if model is None:
            return Error("not_found", f"no model {request.model_id}")
        self._state.ledger.remove(model)
        return Reply(model)
