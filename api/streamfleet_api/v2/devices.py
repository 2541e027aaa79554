"""`/v2/devices`: join tokens, labels and the removal of devices."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import PAGE, BrokerClient
from streamfleet_api.feeds.statuses import Statuses
from streamfleet_api.v2.mapping import merged_labels
from streamfleet_api.v2.pages import Page, fields_of
from streamfleet_api.v2.request_reading import MERGE_PATCH, query, read, selector_of
from streamfleet_api.v2.requests import (
    DevicePatch,
    DeviceQuery,
    DeviceRequest,
    DrainRequest,
    DrillRequest,
    RebalanceRequest,
)
from streamfleet_api.v2.responses import Device, DeviceList, JoinToken, RebalanceAnswer
from streamfleet_api.web.endpoint import JSON, Answer, Content, Endpoint, native, written
from streamfleet_api.web.validation import ID_SCHEMA, check_id
from streamfleet_core.protocol.requests import (
    AddDevice,
    CordonDevice,
    DeviceView,
    DrainDevice,
    DrillDevice,
    GetDevice,
    LabelDevice,
    Rebalance,
    RebalanceDevices,
    RemoveDevice,
    Token,
)

_SECRET = {"cache-control": "no-store"}
_NAME = {"name": ID_SCHEMA}


class DeviceRoutes:
    """The endpoints."""

    def __init__(self, broker: BrokerClient, statuses: Statuses) -> None:
        self._broker = broker
        self._statuses = statuses

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
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
                {201: Answer("The token. It is shown only once and valid only once.", JoinToken)},
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
                "A pipeline whose selector no longer matches is moved to another device, if it is movable.",
                body=Content(DevicePatch, (MERGE_PATCH, JSON)),
                path_schemas=_NAME,
                errors=native(404, 409, 422),
            ),
            Endpoint(
                *("POST", f"{one}/cordon", self.cordon, "cordon_device", "Place nothing on a device", tag),
                {200: Answer("The device.", Device)},
                "What runs there goes on. It lasts until the device is uncordoned.",
                path_schemas=_NAME,
                errors=native(404, 422),
            ),
            Endpoint(
                *(
                    "POST",
                    f"{one}/uncordon",
                    self.uncordon,
                    "uncordon_device",
                    "Place on a device again",
                    tag,
                ),
                {200: Answer("The device.", Device)},
                "It ends a drain, too: what has not moved yet stays.",
                path_schemas=_NAME,
                errors=native(404, 422),
            ),
            Endpoint(
                *("POST", f"{one}/drain", self.drain, "drain_device", "Move everything from a device", tag),
                {200: Answer("The device. Its `remaining` tells how far it is.", Device)},
                "The device is cordoned. Each pipeline runs on until another device is ready for it. Files "
                "end first. The drain lasts until the device is uncordoned.",
                body=Content(DrainRequest),
                path_schemas=_NAME,
                errors=native(404, 422),
            ),
            Endpoint(
                *("POST", "/v2/rebalance", self.rebalance, "rebalance_devices", "Even out the load", tag),
                {200: Answer("The moves, and the load of the devices before and after.", RebalanceAnswer)},
                "Running pipelines move from devices with much load to others with less, a few at a time. "
                "Each runs on until another device is ready for it.",
                body=Content(RebalanceRequest),
                errors=native(422),
            ),
            Endpoint(
                *("DELETE", one, self.remove, "remove_device", "Remove a device and its key", tag),
                {204: Answer("The device was removed.")},
                "Movable pipelines move to other devices, others prevent the removal. It is disconnected.",
                path_schemas=_NAME,
                errors=native(404, 409, 422),
            ),
            Endpoint(
                *("POST", f"{one}/drill", self.drill, "drill_device", "Cause a fault on a device", tag),
                {202: Answer("The device was told.")},
                "Kills one of its processes, or keeps it from the broker for a while, to try what happens."
                " Only devices whose worker runs with `--allow-drills true` take part.",
                body=Content(DrillRequest),
                path_schemas=_NAME,
                errors=native(404, 409, 422),
            ),
        ]

    async def list(self, request: Request) -> Response:
        """The devices that match the query."""
        asked = query(request, DeviceQuery)
        selector = selector_of(asked.selector)
        page = Page("devices", asked.limit, fields_of(asked.fields, Device))
        is_narrowed = bool(selector.needs) or asked.state is not None
        size = PAGE if is_narrowed else min(PAGE, asked.limit or PAGE)
        after, views = asked.after, None
        while not page.is_full and (views is None or len(views) == size):
            views = await self._broker.page_of_devices(after, size)
            for view in views:
                after = view.device
                if selector.meets(view.labels) and asked.state in (None, view.state):
                    page.add(self._shown(view), after)
                if page.is_full:
                    break
        return page.response()

    async def add(self, request: Request) -> Response:
        """Create a join token."""
        asked = await read(request, DeviceRequest)
        token = await self._broker.ask(AddDevice(asked.name, asked.ttl), Token)
        return written(JoinToken(device=token.device, token=token.token), 201, _SECRET)

    async def get(self, request: Request) -> Response:
        """One device."""
        view = await self._broker.ask(GetDevice(_name(request)), DeviceView)
        return written(self._shown(view))

    async def patch(self, request: Request) -> Response:
        """Change labels key by key."""
        name = _name(request)
        asked = await read(request, DevicePatch, MERGE_PATCH, JSON)
        view = await self._broker.ask(GetDevice(name), DeviceView)
        if "labels" in asked.model_fields_set:
            labels = merged_labels(view.labels, asked.labels)
            view = await self._broker.ask(LabelDevice(name, labels), DeviceView)
        return written(self._shown(view))

    async def cordon(self, request: Request) -> Response:
        """Place no pipeline on a device any more."""
        return await self._changed(CordonDevice(_name(request)))

    async def uncordon(self, request: Request) -> Response:
        """Place pipelines on a device again, and end its drain."""
        return await self._changed(CordonDevice(_name(request), cordoned=False))

    async def drain(self, request: Request) -> Response:
        """Move all pipelines away from a device."""
        asked = await read(request, DrainRequest)
        return await self._changed(DrainDevice(_name(request), asked.force_after))

    async def rebalance(self, request: Request) -> Response:
        """Move pipelines from devices with much load."""
        asked = await read(request, RebalanceRequest)
        found = await self._broker.ask(RebalanceDevices(asked.dry_run), Rebalance)
        return written(RebalanceAnswer.of(found))

    async def _changed(self, change: CordonDevice | DrainDevice) -> Response:
        return written(self._shown(await self._broker.ask(change, DeviceView)))

    async def remove(self, request: Request) -> Response:
        """Remove a device with its key, tokens and labels."""
        await self._broker.ask(RemoveDevice(_name(request)), object)
        return Response(status_code=204)

    async def drill(self, request: Request) -> Response:
        """Cause a fault on purpose."""
        asked = await read(request, DrillRequest)
        drill = DrillDevice(
            device=_name(request), fault=asked.fault, pipeline_id=asked.pipeline, seconds=asked.seconds
        )
        await self._broker.ask(drill, object)
        return Response(status_code=202)

    def _shown(self, view: DeviceView) -> Device:
        return Device.of(view, self._statuses.device(view.device))


def _name(request: Request) -> str:
    return check_id(request.path_params["name"], "name")
