"""The original's newer endpoints, as its clients and its SDK know them.

Its statuses, its keys in their order, its shape of an error (errors.py). Bodies come with GET too. Ours are
`device` and `dropped` in `context`. To terminate what nobody knows is a 404 like everything else, not a 400.
"""

from __future__ import annotations

import re
import uuid

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.core.commands import CoreCommands
from streamfleet_api.core.payloads import (
    ConsumePipelineResponse,
    ConsumeResultsPayload,
    CoreFailure,
    CoreMessage,
    InitialisePipelinePayload,
)
from streamfleet_api.errors import CORE, Failure
from streamfleet_api.original import is_json, pipeline_id_of, success
from streamfleet_api.original_answers import (
    CommandResponse,
    HttpError,
    HTTPValidationError,
    InferencePipelineStatusResponse,
    ListPipelinesResponse,
)
from streamfleet_api.routes.endpoint import Answer, Content, Endpoint, Handler
from streamfleet_api.schemas import read
from streamfleet_api.stream_manager import StreamManager
from streamfleet_api.wire import Json

NO_WEBRTC = (
    "WebRTC is not supported: pictures with what was found are at GET /v2/pipelines/{pipeline_id}/pictures, "
    "results at GET /inference_pipelines/{pipeline_id}/consume"
)

_FAILURES = {
    400: Answer("What was asked for cannot be done by anybody.", CoreFailure),
    401: Answer("No token, and not from a trusted place.", CoreMessage),
    404: Answer("There is no such pipeline or model.", CoreFailure | HttpError),
    413: Answer("The body is too large.", CoreFailure),
    415: Answer("The body is encoded.", CoreFailure),
    422: Answer("Validation Error", HTTPValidationError),
    500: Answer(
        "It makes no sense in this state, or the broker or the device does not answer.",
        CoreFailure | CoreMessage,
    ),
}


class CoreRoutes:
    """The endpoints."""

    def __init__(self, manager: StreamManager, commands: CoreCommands) -> None:
        self._manager = manager
        self._commands = commands

    def endpoints(self) -> list[Endpoint]:
        """What the original routed, under its operation ids."""
        one = f"{CORE}/{{pipeline_id}}"
        return [
            _endpoint(
                "GET", f"{CORE}/list", self.list_pipelines, ListPipelinesResponse, "List active pipelines"
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
                f"{CORE}/initialise",
                self.initialise,
                CommandResponse,
                "Start a pipeline",
                Content(InitialisePipelinePayload),
            ),
            _endpoint(
                "POST", f"{CORE}/initialise_webrtc", self.initialise_webrtc, None, "Not supported: WebRTC"
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
        """What is known of a pipeline."""
        view, report = await self._manager.report(pipeline_id_of(request))
        return success(view, report=report)

    async def initialise(self, request: Request) -> Response:
        """A new pipeline, under an id of our making."""
        payload = read(await request.body(), is_json(request), InitialisePipelinePayload)
        return success(await self._commands.initialise(payload))

    async def initialise_webrtc(self, _request: Request) -> Response:
        """Nothing here speaks WebRTC, so nothing pretends to."""
        raise Failure(501, "not_supported", NO_WEBRTC, error_class="NotImplementedError")

    async def pause(self, request: Request) -> Response:
        """Nothing is emitted after the answer."""
        return success(await self._manager.mute(pipeline_id_of(request)))

    async def resume(self, request: Request) -> Response:
        """Emission goes on, for a file with the next frame."""
        return success(await self._manager.resume(pipeline_id_of(request)))

    async def terminate(self, request: Request) -> Response:
        """The pipeline is gone for clients at once; a device that is away ends it when it returns."""
        return success(await self._commands.terminate(pipeline_id_of(request)))

    async def consume(self, request: Request) -> Response:
        """The oldest result that waits; two empty lists when none does."""
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
        "core",
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
