"""The six endpoints of Roboflow's Stream Management API, compatible with its clients.

Statuses, keys and their order, and both forms of an error are Roboflow's. Additions of ours are the optional
keys `device` and `tracker` of a request, `device` in `context`, and `state`, `age`, … in `report`.
"""

from __future__ import annotations

import functools
import re
import uuid
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.roboflow.mapping import check, spec_of
from streamfleet_api.roboflow.responses import (
    CommandResponse,
    FailureResponse,
    HttpError,
    HTTPValidationError,
    InferencePipelineStatusResponse,
    ListPipelinesResponse,
)
from streamfleet_api.roboflow.schemas import PipelineInitialisationRequest
from streamfleet_api.roboflow.service import StreamManager
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, Handler
from streamfleet_api.web.json_codec import Json
from streamfleet_api.web.validation import check_id, read
from streamfleet_core.protocol.requests import (
    PipelineView,
)

_FAILURES = {
    400: Answer("The request is invalid.", FailureResponse),
    401: Answer("A token is required: the address is neither local nor trusted.", FailureResponse),
    403: Answer("A web page of another origin, or a token over an unencrypted connection.", FailureResponse),
    404: Answer("There is no such pipeline or model.", FailureResponse | HttpError),
    413: Answer("The body is too large.", FailureResponse),
    415: Answer("The body is encoded.", FailureResponse),
    429: Answer("Too many wrong tokens from this address.", FailureResponse),
    500: Answer("Not allowed in the current state, or an unknown enum value.", FailureResponse),
    503: Answer("The broker or the device does not answer.", FailureResponse),
}


class StreamManagementRoutes:
    """The endpoints."""

    def __init__(self, manager: StreamManager) -> None:
        self._manager = manager

    def endpoints(self) -> list[Endpoint]:
        """Declare Roboflow's endpoints, with its operation ids."""
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
        """The status of a pipeline. It never waits for a device."""
        view, report = await self._manager.report(pipeline_id_of(request))
        return success(view, report=report)

    async def initialise(self, request: Request) -> Response:
        """Create a pipeline under a generated id."""
        initialisation = read(await request.body(), is_json(request), PipelineInitialisationRequest)
        check(initialisation)
        view = await self._manager.initialise(
            initialisation.model_id,
            functools.partial(spec_of, initialisation, learning=self._manager.learning),
            device=initialisation.device,
        )
        return success(view)

    async def pause(self, request: Request) -> Response:
        """Pause a pipeline. After the response it emits nothing more."""
        return success(await self._manager.mute(pipeline_id_of(request)))

    async def resume(self, request: Request) -> Response:
        """Resume a pipeline; a file continues with its next frame."""
        return success(await self._manager.resume(pipeline_id_of(request)))

    async def terminate(self, request: Request) -> Response:
        """Terminate a pipeline. It is gone for clients at once; an absent device stops it on its return."""
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
        "roboflow",
        answers,
        errors=frozenset(),
        body=Content(body) if body else None,
        path_schemas={"pipeline_id": {"type": "string", "title": "Pipeline Id"}},
    )


def pipeline_id_of(request: Request) -> str:
    """The pipeline id in the path. Raises: Invalid."""
    return check_id(request.path_params["pipeline_id"], "pipeline_id")


def is_json(request: Request) -> bool:
    """Whether a body is JSON. Like FastAPI, take a body without a type for JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def success(view: PipelineView | None, **content: Any) -> Response:
    """The response to a successful command, with the pipeline if it is about one."""
    context: dict[str, Any] = {"request_id": str(uuid.uuid4()), "pipeline_id": None}
    if view is not None:
        context |= {"pipeline_id": view.pipeline_id, "device": view.device}
    return Json({"status": "success", "context": context, **content})
