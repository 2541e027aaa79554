"""Roboflow's `/inference_pipelines` endpoints, compatible with its clients and its SDK.

Statuses, keys and their order, and the form of an error are Roboflow's. GET requests may have a body.
Additions of ours are `device` and `dropped` in `context`. Terminating an unknown pipeline is a 404, not 400.
"""

from __future__ import annotations

import re
import uuid

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.roboflow.errors import INFERENCE_PIPELINES, Failure
from streamfleet_api.roboflow.inference_pipelines.schemas import (
    ConsumePipelineResponse,
    ConsumeResultsPayload,
    CoreFailure,
    CoreMessage,
    InitialisePipelinePayload,
)
from streamfleet_api.roboflow.inference_pipelines.service import InferencePipelineCommands
from streamfleet_api.roboflow.responses import (
    CommandResponse,
    HttpError,
    HTTPValidationError,
    InferencePipelineStatusResponse,
    ListPipelinesResponse,
)
from streamfleet_api.roboflow.service import StreamManager
from streamfleet_api.roboflow.stream_management import is_json, pipeline_id_of, success
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, Handler
from streamfleet_api.web.json_codec import Json
from streamfleet_api.web.validation import read

NO_WEBRTC = (
    "WebRTC is not supported: annotated frames are at GET /v2/pipelines/{pipeline_id}/pictures, "
    "results at GET /inference_pipelines/{pipeline_id}/consume"
)

_FAILURES = {
    400: Answer("The request is invalid.", CoreFailure),
    401: Answer("A token is required: the address is neither local nor trusted.", CoreMessage),
    403: Answer("A web page of another origin, or a token over an unencrypted connection.", CoreMessage),
    404: Answer("There is no such pipeline or model.", CoreFailure | HttpError),
    413: Answer("The body is too large.", CoreFailure),
    415: Answer("The body is encoded.", CoreFailure),
    422: Answer("Validation Error", HTTPValidationError),
    429: Answer("Too many wrong tokens from this address.", CoreMessage),
    500: Answer(
        "Not allowed in the current state, or the broker or the device does not answer.",
        CoreFailure | CoreMessage,
    ),
}


class InferencePipelineRoutes:
    """The endpoints."""

    def __init__(self, manager: StreamManager, commands: InferencePipelineCommands) -> None:
        self._manager = manager
        self._commands = commands

    def endpoints(self) -> list[Endpoint]:
        """Declare Roboflow's endpoints, with its operation ids."""
        one = f"{INFERENCE_PIPELINES}/{{pipeline_id}}"
        return [
            _endpoint(
                "GET",
                f"{INFERENCE_PIPELINES}/list",
                self.list_pipelines,
                ListPipelinesResponse,
                "List active pipelines",
            ),
            _endpoint(
                "GET",
                f"{one}/status",
                self.get_status,
                InferencePipelineStatusResponse,
                "Status of a pipeline",
            ),
            _endpoint(
                "POST",
                f"{INFERENCE_PIPELINES}/initialise",
                self.initialise,
                CommandResponse,
                "Start a pipeline",
                Content(InitialisePipelinePayload),
            ),
            _endpoint(
                "POST",
                f"{INFERENCE_PIPELINES}/initialise_webrtc",
                self.initialise_webrtc,
                None,
                "Not supported: WebRTC",
            ),
            _endpoint("POST", f"{one}/pause", self.pause, CommandResponse, "Pause a pipeline"),
            _endpoint("POST", f"{one}/resume", self.resume, CommandResponse, "Resume a pipeline"),
            _endpoint("POST", f"{one}/terminate", self.terminate, CommandResponse, "Terminate a pipeline"),
            _endpoint(
                "GET",
                f"{one}/consume",
                self.consume,
                ConsumePipelineResponse,
                "Take the oldest result of a pipeline",
                Content(ConsumeResultsPayload, required=False),
                takes=True,
            ),
        ]

    async def list_pipelines(self, _request: Request) -> Response:
        """The ids of all pipelines of the fleet, oldest first."""
        return success(None, pipelines=await self._manager.list())

    async def get_status(self, request: Request) -> Response:
        """The status of a pipeline."""
        view, report = await self._manager.report(pipeline_id_of(request))
        return success(view, report=report)

    async def initialise(self, request: Request) -> Response:
        """Create a pipeline under a generated id."""
        payload = read(await request.body(), is_json(request), InitialisePipelinePayload)
        return success(await self._commands.initialise(payload))

    async def initialise_webrtc(self, _request: Request) -> Response:
        """Refuse WebRTC, which is not supported."""
        raise Failure(501, "not_supported", NO_WEBRTC, error_class="NotImplementedError")

    async def pause(self, request: Request) -> Response:
        """Pause a pipeline. After the response it emits nothing more."""
        return success(await self._manager.mute(pipeline_id_of(request)))

    async def resume(self, request: Request) -> Response:
        """Resume a pipeline; a file continues with its next frame."""
        return success(await self._manager.resume(pipeline_id_of(request)))

    async def terminate(self, request: Request) -> Response:
        """Terminate a pipeline. It is gone for clients at once; an absent device stops it on its return."""
        return success(await self._commands.terminate(pipeline_id_of(request)))

    async def consume(self, request: Request) -> Response:
        """Take the oldest result. Without one, both lists are empty."""
        pipeline_id = pipeline_id_of(request)
        taken = await self._commands.consume(pipeline_id, excluded=await _excluded(request))
        context = {"request_id": str(uuid.uuid4()), "pipeline_id": pipeline_id, "dropped": taken.dropped}
        return Json(
            {
                "status": "success",
                "context": context,
                "outputs": taken.outputs,
                "frames_metadata": taken.frames_metadata,
            }
        )


def _endpoint(
    method: str,
    path: str,
    handler: Handler,
    answer: type[BaseModel] | None,
    summary: str,
    body: Content | None = None,
    *,
    takes: bool = False,
) -> Endpoint:
    place = re.sub(r"\W", "_", path)
    done = Answer("Not supported", CoreFailure) if answer is None else Answer("Successful Response", answer)
    return Endpoint(
        method,
        path,
        handler,
        f"{handler.__name__}{place}_{method.lower()}",  # as FastAPI made them
        summary,
        "inference_pipelines",
        {200 if answer else 501: done, **_FAILURES},
        errors=frozenset(),
        body=body,
        path_schemas={"pipeline_id": {"type": "string", "title": "Pipeline Id"}},
        takes=takes,
    )


async def _excluded(request: Request) -> list[str]:
    body = await request.body()
    if body.strip() in (b"", b"null"):  # FastAPI takes both for no body
        return []
    return read(body, is_json(request), ConsumeResultsPayload).excluded_fields or []
