"""`/v2/subscribers`: programs that subscribe over TCP, and their keys."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.v2.request_reading import read
from streamfleet_api.v2.requests import SubscriberRequest
from streamfleet_api.v2.responses import Subscriber, SubscriberKeys, SubscriberList
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, native, written
from streamfleet_api.web.validation import ID_SCHEMA, check_id
from streamfleet_core.protocol.requests import (
    AddSubscriber,
    ListSubscribers,
    RemoveSubscriber,
    SubscriberView,
    Subscription,
)

_NAME = {"name": ID_SCHEMA}


class SubscriberRoutes:
    """The endpoints."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
        whole, one, tag = "/v2/subscribers", "/v2/subscribers/{name}", "subscribers"
        return [
            Endpoint(
                *("GET", whole, self.list, "list_subscribers"),
                *("All programs that may subscribe, by name", tag),
                {200: Answer("The programs and their pipelines.", SubscriberList)},
            ),
            Endpoint(
                *("POST", whole, self.add, "add_subscriber"),
                *("Keys for a program that subscribes over TCP", tag),
                {201: Answer("The keys. The secret key is shown only once.", SubscriberKeys)},
                "An existing name gets a new key, and connections with the old one are closed.",
                body=Content(SubscriberRequest),
                errors=native(404, 409, 422),
            ),
            Endpoint(
                *("DELETE", one, self.remove, "remove_subscriber"),
                *("Remove a subscriber and its key", tag),
                {204: Answer("The subscriber was removed. Its connections are closed within seconds.")},
                path_schemas=_NAME,
                errors=native(404, 422),
            ),
        ]

    async def list(self, request: Request) -> Response:
        """All subscribers."""
        views = await self._broker.ask(ListSubscribers(), tuple[SubscriberView, ...])
        found = [
            Subscriber(name=view.name, pipelines=list(view.pipelines), selector=view.selector)
            for view in views
        ]
        return written(SubscriberList(subscribers=found))

    async def add(self, request: Request) -> Response:
        """Create a key pair. The broker or the device gets only the public key."""
        asked = await read(request, SubscriberRequest)
        made = await self._broker.ask(
            AddSubscriber(asked.name, asked.device, tuple(asked.pipelines), asked.selector), Subscription
        )
        keys = SubscriberKeys(
            name=made.name,
            endpoint=made.endpoint,
            endpoints=list(made.endpoints),
            server_key=made.server_key,
            public_key=made.public_key,
            secret_key=made.secret_key,
        )
        return written(keys, 201, {"cache-control": "no-store"})

    async def remove(self, request: Request) -> Response:
        """Remove a subscriber. Its key is no longer valid."""
        await self._broker.ask(RemoveSubscriber(check_id(request.path_params["name"], "name")), object)
        return Response(status_code=204)
