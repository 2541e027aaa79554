"""Health, readiness and metrics of this process."""

from __future__ import annotations

import os
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.monitoring.metrics import CONTENT_TYPE, Metrics
from streamfleet_api.roboflow.responses import FailureResponse
from streamfleet_api.v2.responses import Health, Readiness
from streamfleet_api.web.endpoint import Answer, Endpoint, written
from streamfleet_core.protocol.requests import FleetView, GetFleet

_TEXT = {"type": "string"}
REFUSED = {
    401: Answer("A token is required: the address is neither local nor trusted.", FailureResponse),
    403: Answer("A web page of another origin, or a token over an unencrypted connection.", FailureResponse),
    413: Answer("The body is too large.", FailureResponse),
    415: Answer("The body is encoded.", FailureResponse),
    429: Answer("Too many wrong tokens from this address.", FailureResponse),
}


class ProcessRoutes:
    """The endpoints."""

    def __init__(self, broker: BrokerClient, metrics: Metrics, warnings: Callable[[], list[str]]) -> None:
        self._warnings = warnings
        self._broker = broker
        self._metrics = metrics

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
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
        """Report that this process is alive, with its pid, so that its parent recognises it."""
        return written(Health(status="ok", pid=os.getpid(), warnings=self._warnings()))

    async def readyz(self, _request: Request) -> Response:
        """The broker answers, and at least one device is ready."""
        fleet = await self._broker.ask(GetFleet(), FleetView, timeout=2.0)
        return written(Readiness.of(fleet), 200 if fleet.devices_ready else 503)

    async def metrics(self, _request: Request) -> Response:
        """Serve the metrics."""
        return Response(await self._metrics.text(), media_type=CONTENT_TYPE)
