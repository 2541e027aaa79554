"""`/v2/devices`: who may join, what labels they have, who is forgotten; `/v2/subscribers`: keys."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.answers import Device, DeviceList, JoinToken, SubscriberKeys
from streamfleet_api.bodies import DevicePatch, DeviceQuery, DeviceRequest, SubscriberRequest
from streamfleet_api.link import Link
from streamfleet_api.routes.endpoint import JSON, Answer, Content, Endpoint, native, written
from streamfleet_api.routes.reading import MERGE_PATCH, query, read, selector_of
from streamfleet_api.schemas import ID_PATTERN, check_id
from streamfleet_api.statuses import Statuses
from streamfleet_api.wanted import merged_labels
from streamfleet_broker.protocol.requests import (
    AddDevice,
    AddSubscriber,
    DeviceView,
    GetDevice,
    LabelDevice,
    ListDevices,
    RemoveDevice,
    Subscription,
    Token,
)

_SECRET = {"cache-control": "no-store"}
_NAME = {"name": {"type": "string", "pattern": ID_PATTERN}}


class DeviceRoutes:
    """The endpoints."""

    def __init__(self, link: Link, statuses: Statuses) -> None:
        self._link = link
        self._statuses = statuses

    def endpoints(self) -> list[Endpoint]:
        """As they are declared."""
        whole, one, tag = "/v2/devices", "/v2/devices/{name}", "devices"
        return [
            Endpoint(
                *("GET", whole, self.list, "list_devices", "Every device, by name", tag),
                {200: Answer("The devices.", DeviceList)},
                query=DeviceQuery,
                errors=native(422),
            ),
            Endpoint(
                *("POST", whole, self.add, "add_device", "A token with which one device may join", tag),
                {201: Answer("The token: it is shown this once, and good once.", JoinToken)},
                body=Content(DeviceRequest),
                errors=native(409, 422),
            ),
            Endpoint(
                *("GET", one, self.get, "get_device", "One device", tag),
                {200: Answer("The device.", Device)},
                path_schemas=_NAME,
                errors=native(404, 422),
            ),
            Endpoint(
                *("PATCH", one, self.patch, "patch_device", "Change the labels of a device", tag),
                {200: Answer("The device.", Device)},
                "A pipeline whose selector the device no longer meets is moved, if it may move.",
                body=Content(DevicePatch, (MERGE_PATCH, JSON)),
                path_schemas=_NAME,
                errors=native(404, 409, 422),
            ),
            Endpoint(
                *("DELETE", one, self.remove, "remove_device", "Forget a device and its key", tag),
                {204: Answer("It is forgotten.")},
                "Only one that is away and has no pipelines.",
                path_schemas=_NAME,
                errors=native(404, 409, 422),
            ),
            Endpoint(
                *("POST", "/v2/subscribers", self.subscribe, "add_subscriber"),
                *("Keys for a program that subscribes over TCP", "subscribers"),
                {201: Answer("The keys: the secret one is shown this once.", SubscriberKeys)},
                body=Content(SubscriberRequest),
                errors=native(404, 409, 422),
            ),
        ]

    async def list(self, request: Request) -> Response:
        """Those that the query selects."""
        asked = query(request, DeviceQuery)
        selector = selector_of(asked.selector)
        views = await self._link.ask(ListDevices(), tuple[DeviceView, ...])
        found = [
            self._shown(view)
            for view in views
            if selector.meets(view.labels) and asked.state in (None, view.state)
        ]
        return written(DeviceList(devices=found))

    async def add(self, request: Request) -> Response:
        """A token."""
        asked = await read(request, DeviceRequest)
        token = await self._link.ask(AddDevice(asked.name, asked.ttl), Token)
        return written(JoinToken(device=token.device, token=token.token), 201, _SECRET)

    async def get(self, request: Request) -> Response:
        """One device."""
        view = await self._link.ask(GetDevice(_name(request)), DeviceView)
        return written(self._shown(view))

    async def patch(self, request: Request) -> Response:
        """Its labels, key by key."""
        name = _name(request)
        asked = await read(request, DevicePatch, MERGE_PATCH, JSON)
        view = await self._link.ask(GetDevice(name), DeviceView)
        if "labels" in asked.model_fields_set:
            labels = merged_labels(view.labels, asked.labels)
            view = await self._link.ask(LabelDevice(name, labels), DeviceView)
        return written(self._shown(view))

    async def remove(self, request: Request) -> Response:
        """Key, tokens and labels go."""
        await self._link.ask(RemoveDevice(_name(request)), object)
        return Response(status_code=204)

    async def subscribe(self, request: Request) -> Response:
        """A pair of keys, whose public half the broker or the device gets to know."""
        asked = await read(request, SubscriberRequest)
        made = await self._link.ask(AddSubscriber(asked.name, asked.device), Subscription)
        keys = SubscriberKeys(
            name=made.name,
            endpoint=made.endpoint,
            server_key=made.server_key,
            public_key=made.public_key,
            secret_key=made.secret_key,
        )
        return written(keys, 201, _SECRET)

    def _shown(self, view: DeviceView) -> Device:
        return Device.of(view, self._statuses.device(view.device))


def _name(request: Request) -> str:
    return check_id(request.path_params["name"], "name")
