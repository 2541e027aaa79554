"""`/v2/plan`: where pipelines would go, and what would be left of each device."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.storage.model_registry import Models
from streamfleet_api.v2.mapping import Place, desired, model_places
from streamfleet_api.v2.model_lookup import find_models
from streamfleet_api.v2.request_reading import read
from streamfleet_api.v2.requests import PlanRequest
from streamfleet_api.v2.responses import PlanAnswer
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, native, written
from streamfleet_core.protocol.requests import Plan, PlanPipelines


class PlanRoutes:
    """The endpoint."""

    def __init__(self, broker: BrokerClient, models: Models) -> None:
        self._broker = broker
        self._models = models

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoint."""
        return [
            Endpoint(
                *("POST", "/v2/plan", self.plan, "plan", "Where pipelines would go", "pipelines"),
                {200: Answer("The device of each pipeline, and the load of each device then.", PlanAnswer)},
                "Nothing changes. Pipelines are placed by priority, then in their order, as if those before "
                "them were there. One whose id exists takes the place of that pipeline.",
                body=Content(PlanRequest),
                errors=native(409, 422),
            )
        ]

    async def plan(self, request: Request) -> Response:
        """Ask the broker."""
        asked = await read(request, PlanRequest)
        places: dict[str, Place] = {}
        for number, each in enumerate(asked.pipelines):
            for model_id, (body, *place) in model_places(each.model, each.stages).items():
                places.setdefault(model_id, [body, "pipelines", number, *place])
        models = await find_models(self._models, places)
        pipelines = tuple(
            desired(each, each.id or f"plan-{number}", models)
            for number, each in enumerate(asked.pipelines, 1)
        )
        return written(PlanAnswer.of(await self._broker.ask(PlanPipelines(pipelines=pipelines), Plan)))
