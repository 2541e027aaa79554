"""The six endpoints of the original Stream Management API, as its clients know them.

Its statuses, its keys in their order, both of its shapes of an error (errors.py). Ours are two optional keys
of a request, `device` and `tracker`, and extra keys: `device` in `context`; `state`, `age`, … in `report`.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.errors import UNREACHABLE, Failure, failure
from streamfleet_api.link import Link, Refused
from streamfleet_api.modelfile import BadModel
from streamfleet_api.models import Models, UnknownModel
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
from streamfleet_api.statuses import Statuses
from streamfleet_api.wire import Json
from streamfleet_api.wishes import check, not_allowed, report_of, spec_of
from streamfleet_broker.protocol.requests import (
    Changed,
    ChangePipeline,
    CreatePipeline,
    DeviceView,
    GetPipeline,
    ListDevices,
    ListPipelines,
    PipelineView,
)
from streamfleet_broker.protocol.values import ModelRef, Want

CONFIRM_WAIT = 5.0  # seconds that a device has to confirm a pause or its end
TERMINATE_WAIT = 1.5  # seconds; a terminated pipeline is gone for clients whether confirmed or not
_OVER = ("ended", "failed")
_FAILURES = {
    400: Answer("What was asked for cannot be done by anybody.", FailureResponse),
    401: Answer("No token, and not from a trusted place.", FailureResponse),
    404: Answer("There is no such pipeline or model.", FailureResponse | HttpError),
    413: Answer("The body is too large.", FailureResponse),
    415: Answer("The body is encoded.", FailureResponse),
    500: Answer("It makes no sense in this state, or a value is none of those there are.", FailureResponse),
    503: Answer("The broker or the device does not answer.", FailureResponse),
}
_MARGIN = 3.0  # seconds that the broker has beyond the wait


class Original:
    """The endpoints."""

    def __init__(self, link: Link, models: Models, statuses: Statuses) -> None:
        self._link = link
        self._models = models
        self._statuses = statuses

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
        views = await self._link.ask(ListPipelines(), tuple[PipelineView, ...])
        return _success(None, pipelines=[view.pipeline_id for view in views])

    async def status(self, request: Request) -> Response:
        """What is known of a pipeline; no device is asked, so none can keep the answer back."""
        view = await self._view(_pipeline_id(request))
        return _success(view, report=report_of(view, self._statuses.pipeline(view.pipeline_id)))

    async def initialise(self, request: Request) -> Response:
        """A new pipeline, under an id of our making."""
        wish = read(await request.body(), _is_json(request), PipelineInitialisationRequest)
        check(wish)
        await self._check_device(wish.device)
        spec = spec_of(wish, await self._model(wish.model_id))
        create = CreatePipeline(str(uuid.uuid4()), spec, wish.device)
        return _success(await self._link.ask(create, PipelineView))

    async def pause(self, request: Request) -> Response:
        """Nothing is emitted after the answer."""
        view = await self._view(_pipeline_id(request))
        if view.status == "paused" or view.status in _OVER:
            raise not_allowed("MUTE", view)
        changed = await self._change(view.pipeline_id, "pause", _wait(view))
        return _confirmed("MUTE", changed)

    async def resume(self, request: Request) -> Response:
        """Emission goes on, for a file with the next frame."""
        view = await self._view(_pipeline_id(request))
        if view.want == "run" and view.status != "paused":
            raise not_allowed("RESUME", view)
        changed = await self._change(view.pipeline_id, "run", _wait(view))
        return _confirmed("RESUME", changed)

    async def terminate(self, request: Request) -> Response:
        """The pipeline is gone for clients at once; a device that is away ends it when it returns."""
        changed = await self._change(_pipeline_id(request), "stop", TERMINATE_WAIT)
        return _success(changed.pipeline)

    async def _view(self, pipeline_id: str) -> PipelineView:
        try:
            return await self._link.ask(GetPipeline(pipeline_id), PipelineView)
        except Refused as exc:
            raise _as_original(exc) from exc

    async def _change(self, pipeline_id: str, want: Want, wait: float) -> Changed:
        change = ChangePipeline(pipeline_id, want, wait_ms=round(wait * 1000))
        try:
            return await self._link.ask(change, Changed, timeout=wait + _MARGIN)
        except Refused as exc:
            raise _as_original(exc) from exc

    async def _check_device(self, device: str | None) -> None:
        if device is None:
            return
        known = [view.device for view in await self._link.ask(ListDevices(), tuple[DeviceView, ...])]
        if device not in known:
            names = ", ".join(known) or "none yet"
            text = f"expected device as one of the fleet's ({names}), came {device[:80]!r}"
            raise Failure(400, "invalid_payload", text)

    async def _model(self, model_id: str) -> ModelRef:
        try:
            return await self._models.find(model_id)
        except UnknownModel as exc:
            raise Failure(404, "not_found", str(exc)) from exc
        except BadModel as exc:
            text = f"model {model_id!r} of the model cache cannot be used: {exc}"
            raise Failure(400, "invalid_payload", text) from exc


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


def _confirmed(operation: str, changed: Changed) -> Response:
    """The answer to a change. Raises: Failure when the pipeline ended before it could change."""
    view = changed.pipeline
    if changed.confirmed or view.device is None:  # what no device has emits nothing, and will do as wished
        return _success(view)
    if view.status in _OVER:
        raise not_allowed(operation, view)
    return failure(
        503,
        f"{UNREACHABLE}: the wish to {view.want} is stored, but device {view.device} has not confirmed it "
        f"within {CONFIRM_WAIT:g} s",
    )


def _wait(view: PipelineView) -> float:
    """Seconds: nobody confirms for a pipeline that no device has."""
    return 0.0 if view.device is None else CONFIRM_WAIT


def _pipeline_id(request: Request) -> str:
    return check_id(request.path_params["pipeline_id"], "pipeline_id")


def _is_json(request: Request) -> bool:
    """As FastAPI: a body without a type is taken for JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _as_original(refused: Refused) -> Exception:
    """The original says nothing about an id that it does not know."""
    return Failure(404, "not_found", "N/A") if refused.code == "not_found" else refused


def _success(view: PipelineView | None, **content: Any) -> Response:
    context: dict[str, Any] = {"request_id": str(uuid.uuid4()), "pipeline_id": None}
    if view is not None:
        context |= {"pipeline_id": view.pipeline_id, "device": view.device}
    return Json({"status": "success", "context": context, **content})
