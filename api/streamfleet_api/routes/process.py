"""What whoever supervises or scrapes this process asks: is it alive, is it ready, its figures."""

from __future__ import annotations

import os

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.answers import Health, Readiness
from streamfleet_api.link import Link
from streamfleet_api.metrics import CONTENT_TYPE, Metrics
from streamfleet_api.original_answers import FailureResponse
from streamfleet_api.routes.endpoint import Answer, Endpoint, written
from streamfleet_broker.protocol.requests import FleetView, GetFleet

_TEXT = {"type": "string"}
REFUSED = {
    401: Answer("No token, and not from a trusted place.", FailureResponse),
    413: Answer("The body is too large.", FailureResponse),
    415: Answer("The body is encoded.", FailureResponse),
}


class ProcessRoutes:
    """The endpoints."""

    def __init__(self, link: Link, metrics: Metrics) -> None:
        self._link = link
        self._metrics = metrics

    def endpoints(self) -> list[Endpoint]:
        """As they are declared."""
        return [
            Endpoint(
                *("GET", "/healthz", self.healthz, "healthz", "Does this process answer?", "fleet"),
                {200: Answer("It does.", Health), 413: REFUSED[413], 415: REFUSED[415]},
                errors=frozenset(),
            ),
            Endpoint(
                *("GET", "/readyz", self.readyz, "readyz"),
                *("Does the broker answer, and is a device ready?", "fleet"),
                {
                    200: Answer("Both.", Readiness),
                    503: Answer("No device is ready, or no broker answers.", Readiness | FailureResponse),
                    413: REFUSED[413],
                    415: REFUSED[415],
                },
                errors=frozenset(),
            ),
            Endpoint(
                *("GET", "/metrics", self.metrics, "metrics", "The figures of the fleet for Prometheus"),
                "fleet",
                {200: Answer("The text format.", media="text/plain", schema=_TEXT), **REFUSED},
                "From the last known state: no device is asked. `streamfleet_broker_up` is 0 when the broker "
                "does not answer.",
                errors=frozenset(),
            ),
        ]

    async def healthz(self, _request: Request) -> Response:
        """This process answers; its pid tells whoever started it that it is this one."""
        return written(Health(status="ok", pid=os.getpid()))

    async def readyz(self, _request: Request) -> Response:
        """The broker answers, and at least one device is ready."""
        fleet = await self._link.ask(GetFleet(), FleetView, timeout=2.0)
        return written(Readiness.of(fleet), 200 if fleet.devices_ready else 503)

    async def metrics(self, _request: Request) -> Response:
        """All that is known, now."""
        return Response(await self._metrics.text(), media_type=CONTENT_TYPE)
