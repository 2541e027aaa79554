"""The six endpoints of the original Stream Management API, as its clients know them.

Its statuses, its keys in their order, both of its shapes of an error (errors.py). Ours are two optional keys
of a request, `device` and `tracker`, and extra keys: `device` in `context`; `state`, `age`, … in `report`.
"""

from __future__ import annotations

import functools
import re
import uuid
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.original_answers import (
    CommandResponse,
    FailureResponse,
    HttpError,
    HTTPValidationError,
    InferencePipelineStatusResponse,
    ListPipelinesResponse,
)
from streamfleet_api.routes.endpoint import Answer, Content, Endpoint, Handler
from streamfleet_api.schemas import PipelineInitialisationRequest, check_id, read
from streamfleet_api.stream_manager import StreamManager
from streamfleet_api.wire import Json
from streamfleet_api.wishes import check, spec_of
from streamfleet_broker.protocol.requests import (
    PipelineView,
)

_FAILURES = {
    400: Answer("What was asked for cannot be done by anybody.", FailureResponse),
    401: Answer("No token, and not from a trusted place.", FailureResponse),
    404: Answer("There is no such pipeline or model.", FailureResponse | HttpError),
    413: Answer("The body is too large.", FailureResponse),
    415: Answer("The body is encoded.", FailureResponse),
    500: Answer("It makes no sense in this state, or a value is none of those there are.", FailureResponse),
    503: Answer("The broker or the device does not answer.", FailureResponse),
}


class Original:
    """The endpoints."""

    def __init__(self, manager: StreamManager) -> None:
        self._manager = manager

    def endpoints(self) -> list[Endpoint]:
        """What the original routed, under its operation ids."""
        return [
            _endpoint("GET", "/list_pipelines", self.list_pipelines, ListPipelinesResponse),
            _endpoint("GET", "/status/{pipeline_id}", self.status, InferencePipelineStatusResponse),
            _endpoint("POST", "/initialise", self.initialise, CommandResponse, PipelineInitialisationRequest),
            _endpoint("POST", "/pause/{pipeline_id}", self.pause, CommandResponse),
            _endpoint("POST", "/resume/{pipeline_id}", self.resume, CommandResponse),
            _endpoint("POST", "/terminate/{pipeline_id}", self.terminate, CommandResponse),
        ]

    async def list_pipelines(self, _request: Request) -> Response:
        """The ids of all pipelines of the fleet, oldest first."""
        return success(None, pipelines=await self._manager.list())

    async def status(self, request: Request) -> Response:
        """What is known of a pipeline; no device is asked, so none can keep the answer back."""
        view, report = await self._manager.report(pipeline_id_of(request))
        return success(view, report=report)

    async def initialise(self, request: Request) -> Response:
        """A new pipeline, under an id of our making."""
        wish = read(await request.body(), is_json(request), PipelineInitialisationRequest)
        check(wish)
        view = await self._manager.initialise(
            wish.model_id,
            functools.partial(spec_of, wish, learning=self._manager.learning),
            device=wish.device,
        )
        return success(view)

    async def pause(self, request: Request) -> Response:
        """Nothing is emitted after the answer."""
        return success(await self._manager.mute(pipeline_id_of(request)))

    async def resume(self, request: Request) -> Response:
        """Emission goes on, for a file with the next frame."""
        return success(await self._manager.resume(pipeline_id_of(request)))

    async def terminate(self, request: Request) -> Response:
        """The pipeline is gone for clients at once; a device that is away ends it when it returns."""
        return success(await self._manager.terminate(pipeline_id_of(request)))


def _endpoint(
    method: str, path: str, handler: Handler, answer: type[BaseModel], body: type[BaseModel] | None = None
) -> Endpoint:
    name = path.split("/")[1]
    function = "get_status" if name == "status" else name
    place = re.sub(r"\W", "_", path)
    answers = {200: Answer("Successful Response", answer), **_FAILURES}
    if method == "POST" or "{" in path:
        answers[422] = Answer("Validation Error", HTTPValidationError)
    return Endpoint(
        method,
        path,
        handler,
        f"{function}{place}_{method.lower()}",  # as FastAPI made them
        function.replace("_", " ").capitalize(),
        "original",
        answers,
        errors=frozenset(),
        body=Content(body) if body else None,
        path_schemas={"pipeline_id": {"type": "string", "title": "Pipeline Id"}},
    )


def pipeline_id_of(request: Request) -> str:
    """Which pipeline the path names. Raises: Invalid."""
    return check_id(request.path_params["pipeline_id"], "pipeline_id")


def is_json(request: Request) -> bool:
    """As FastAPI: a body without a type is taken for JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def success(view: PipelineView | None, **content: Any) -> Response:
    """It was done, to this pipeline if to one."""
    context: dict[str, Any] = {"request_id": str(uuid.uuid4()), "pipeline_id": None}
    if view is not None:
        context |= {"pipeline_id": view.pipeline_id, "device": view.device}
    return Json({"status": "success", "context": context, **content})
