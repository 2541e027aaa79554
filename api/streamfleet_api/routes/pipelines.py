"""`/v2/pipelines`: what is wished for, whole (PUT), in part (PATCH), or in a word (pause, …)."""

from __future__ import annotations

import uuid

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.answers import Pipeline, PipelineList, PipelineReport
from streamfleet_api.bodies import NewPipelineRequest, PipelinePatch, PipelineQuery, PipelineRequest
from streamfleet_api.link import Link, Refused
from streamfleet_api.modelfile import BadModel
from streamfleet_api.models import Models, UnknownModel
from streamfleet_api.problems import Problem
from streamfleet_api.routes.endpoint import JSON, Answer, Content, Endpoint, Handler, native, written
from streamfleet_api.routes.reading import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    MERGE_PATCH,
    idempotency_key,
    if_match,
    listed,
    query,
    read,
    refuse_foreign_pages,
    selector_of,
)
from streamfleet_api.schemas import ID_PATTERN, Invalid, check_id
from streamfleet_api.statuses import Statuses
from streamfleet_api.wanted import create, patched, put
from streamfleet_broker.protocol.requests import (
    Changed,
    ChangePipeline,
    DeviceView,
    GetPipeline,
    ListDevices,
    ListPipelines,
    PipelineView,
    Put,
    RestartPipeline,
)
from streamfleet_broker.protocol.values import ModelRef, Want

CONFIRM_WAIT = 5.0  # seconds that a device has to confirm a word
STOP_WAIT = 1.5  # seconds; what is deleted is gone for clients whether confirmed or not
MARGIN = 3.0  # seconds that the broker has beyond the wait
_PATCHES = 5  # attempts, when others change the same pipeline at the same time
_OVER = ("ended", "failed")

_ID = {"pipeline_id": {"type": "string", "pattern": ID_PATTERN}}
_ETAG = {"ETag": "The version, for If-Match."}
_ONE = Answer("The pipeline.", Pipeline, headers=_ETAG)
_CREATED = Answer("It is new.", Pipeline, headers={**_ETAG, "Location": "Its address."})


class PipelineRoutes:
    """The endpoints."""

    def __init__(self, link: Link, models: Models, statuses: Statuses) -> None:
        self._link = link
        self._models = models
        self._statuses = statuses

    def endpoints(self) -> list[Endpoint]:
        """As they are declared."""
        whole, one = "/v2/pipelines", "/v2/pipelines/{pipeline_id}"
        tag = "pipelines"
        return [
            Endpoint(
                *("GET", whole, self.list, "list_pipelines", "Every pipeline, oldest first", tag),
                {200: Answer("The pipelines.", PipelineList)},
                query=PipelineQuery,
                errors=native(422),
            ),
            Endpoint(
                *("POST", whole, self.create, "create_pipeline", "Wish for a new pipeline", tag),
                {201: _CREATED},
                "An id that exists with the same wish is answered again, with another it is a conflict.",
                body=Content(NewPipelineRequest),
                headers=(IDEMPOTENCY_KEY,),
                errors=native(409, 422),
            ),
            Endpoint(
                *("GET", one, self.get, "get_pipeline", "One pipeline", tag),
                {200: _ONE},
                path_schemas=_ID,
                errors=native(404, 422),
            ),
            Endpoint(
                *("PUT", one, self.put, "put_pipeline", "Wish that a pipeline is exactly so", tag),
                {200: _ONE, 201: _CREATED},
                "Doing it again changes nothing. Thresholds, rates, sinks, tracker, labels and `paused` "
                "change while it plays; another model, source or device begins a new playing.",
                body=Content(PipelineRequest),
                headers=(IF_MATCH,),
                path_schemas=_ID,
                errors=native(409, 412, 422),
            ),
            Endpoint(
                *("PATCH", one, self.patch, "patch_pipeline", "Change a pipeline in part", tag),
                {200: _ONE},
                body=Content(PipelinePatch, (MERGE_PATCH, JSON)),
                headers=(IF_MATCH,),
                path_schemas=_ID,
                errors=native(404, 409, 412, 422),
            ),
            Endpoint(
                *("DELETE", one, self.delete, "delete_pipeline", "End a pipeline and forget it", tag),
                {204: Answer("It is gone. A device that is away ends it when it returns.")},
                path_schemas=_ID,
                errors=native(404, 422),
            ),
            self._word("pause", self.pause, "Stop emitting; a file waits at its frame"),
            self._word("resume", self.resume, "Go on emitting"),
            self._word("restart", self.restart, "Play from the beginning, a file that has ended too"),
            Endpoint(
                *("GET", f"{one}/status", self.status, "get_pipeline_status"),
                *("The whole present state of a pipeline, as its device told it last", tag),
                {200: Answer("The state.", PipelineReport)},
                path_schemas=_ID,
                errors=native(404, 422),
            ),
        ]

    @staticmethod
    def _word(word: str, handler: Handler, summary: str) -> Endpoint:
        late = Answer("The wish is stored, its device has not confirmed it yet.", Pipeline, headers=_ETAG)
        return Endpoint(
            *("POST", f"/v2/pipelines/{{pipeline_id}}/{word}", handler),
            *(f"{word}_pipeline", summary, "pipelines"),
            {200: _ONE} if word == "restart" else {200: _ONE, 202: late},
            path_schemas=_ID,
            errors=native(403, 404, 409, 422),
        )

    # looking ----------------------------------------------------------------------------------------------

    async def list(self, request: Request) -> Response:
        """Those that the query selects."""
        asked = query(request, PipelineQuery)
        selector = selector_of(asked.selector)
        views = await self._link.ask(ListPipelines(), tuple[PipelineView, ...])
        found = [
            self._shown(view)
            for view in views
            if selector.meets(view.labels)
            and asked.status in (None, view.status)
            and asked.device in (None, view.device)
        ]
        return written(PipelineList(pipelines=found))

    async def get(self, request: Request) -> Response:
        """One, with its version as its ETag."""
        return self._answer(await self._view(request))

    async def status(self, request: Request) -> Response:
        """What its device told last, or what the broker knows before the first."""
        view = await self._view(request)
        return written(PipelineReport.of(view, self._statuses.pipeline(view.pipeline_id)))

    # wishing ----------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """A new pipeline, under the id of the body or one of our making."""
        key = idempotency_key(request)
        asked = await read(request, NewPipelineRequest)
        await self._check_device(asked.device)
        model = await self._model(asked.model)
        view = await self._link.ask(create(asked, asked.id or str(uuid.uuid4()), model, key), PipelineView)
        return self._answer(view, 201)

    async def put(self, request: Request) -> Response:
        """Exactly so, whether it was there before or not."""
        pipeline_id = _pipeline_id(request)
        tag = if_match(request)
        asked = await read(request, PipelineRequest)
        await self._check_device(asked.device)
        expected = await self._expected(pipeline_id, tag)
        done = await self._put(pipeline_id, asked, await self._model(asked.model), expected)
        return self._answer(done.pipeline, 201 if done.created else 200)

    async def patch(self, request: Request) -> Response:
        """Read, change, put: again from the beginning when somebody else changed it meanwhile."""
        pipeline_id = _pipeline_id(request)
        tag = if_match(request)
        patch = await read(request, PipelinePatch, MERGE_PATCH, JSON)
        await self._check_device(patch.device)
        found = None if patch.model is None else await self._model(patch.model)
        for attempt in range(_PATCHES):
            view = await self._link.ask(GetPipeline(pipeline_id), PipelineView)
            if view.want == "stop":
                raise Problem(409, f"{pipeline_id} is being stopped: it cannot be changed any more")
            if isinstance(tag, int) and tag != view.version:
                raise _precondition(pipeline_id, tag, view.version)
            asked = patched(view, patch)
            try:
                done = await self._put(pipeline_id, asked, found or view.spec.model, view.version)
            except Problem as exc:
                if exc.status != 412:
                    raise
                if attempt + 1 == _PATCHES:
                    text = f"{pipeline_id} was changed by others {_PATCHES} times meanwhile: try again"
                    raise Problem(409, text) from exc
            else:
                return self._answer(done.pipeline)
        raise AssertionError("the last attempt returns or raises")

    async def delete(self, request: Request) -> Response:
        """Gone for clients at once."""
        await self._change(_pipeline_id(request), "stop", STOP_WAIT)
        return Response(status_code=204)

    # words ------------------------------------------------------------------------------------------------

    async def pause(self, request: Request) -> Response:
        """Nothing is emitted after a 200."""
        return await self._do(request, "pause", "paused")

    async def resume(self, request: Request) -> Response:
        """Emission goes on."""
        return await self._do(request, "run", "resumed")

    async def restart(self, request: Request) -> Response:
        """From the beginning."""
        refuse_foreign_pages(request)
        return self._answer(await self._link.ask(RestartPipeline(_pipeline_id(request)), PipelineView))

    async def _do(self, request: Request, want: Want, done: str) -> Response:
        refuse_foreign_pages(request)
        view = await self._view(request)
        if view.status in _OVER or view.want == "stop":
            again = "restart plays it from the beginning" if view.want != "stop" else "it is being stopped"
            raise Problem(409, f"{view.pipeline_id} is {view.status} and cannot be {done}: {again}")
        # What no device has emits nothing, and will do as wished: there is nobody to wait for.
        try:
            changed = await self._change(view.pipeline_id, want, CONFIRM_WAIT if view.device else 0.0)
        except Refused as exc:
            if exc.code != "conflict" or view.want != want:
                raise
            # The broker refuses what is wished for already: here that is done, or its device is still at it.
            is_done = want == "run" or view.status == "paused" or view.device is None
            return self._answer(view, 200 if is_done else 202)
        is_done = changed.confirmed or changed.pipeline.device is None
        return self._answer(changed.pipeline, 200 if is_done else 202)

    # helpers ----------------------------------------------------------------------------------------------

    async def _view(self, request: Request) -> PipelineView:
        return await self._link.ask(GetPipeline(_pipeline_id(request)), PipelineView)

    async def _change(self, pipeline_id: str, want: Want, wait: float) -> Changed:
        change = ChangePipeline(pipeline_id, want, wait_ms=round(wait * 1000))
        return await self._link.ask(change, Changed, timeout=wait + MARGIN)

    async def _put(
        self, pipeline_id: str, asked: PipelineRequest, model: ModelRef, expected: int | None
    ) -> Put:
        """Raises: Problem 412 when another version is there than was expected."""
        try:
            return await self._link.ask(put(asked, pipeline_id, model, expected=expected), Put)
        except Refused as exc:
            if exc.code == "conflict" and expected is not None:
                raise Problem(412, exc.message) from exc
            raise

    async def _expected(self, pipeline_id: str, tag: int | str | None) -> int | None:
        if not isinstance(tag, str):
            return tag
        try:
            return (await self._link.ask(GetPipeline(pipeline_id), PipelineView)).version
        except Refused as exc:
            if exc.code == "not_found":
                raise Problem(412, f"expected a pipeline {pipeline_id}, there is none") from exc
            raise

    async def _check_device(self, device: str | None) -> None:
        if device is None:
            return
        known = [view.device for view in await self._link.ask(ListDevices(), tuple[DeviceView, ...])]
        if device not in known:
            text = f"Input should be a device of the fleet: {listed(known)}"
            raise Invalid([{"type": "device", "loc": ["body", "device"], "msg": text, "input": device}])

    async def _model(self, model_id: str) -> ModelRef:
        try:
            return await self._models.find(model_id)
        except UnknownModel as exc:
            known = listed(model.id for model in await self._models.list())
            text = f"Input should be a model of the fleet: {known}; PUT /v2/models/{model_id} adds it"
            error = {"type": "model", "loc": ["body", "model"], "msg": text, "input": model_id}
            raise Invalid([error]) from exc
        except BadModel as exc:
            text = f"Input should be a model that can be used: {exc}"
            error = {"type": "model", "loc": ["body", "model"], "msg": text, "input": model_id}
            raise Invalid([error]) from exc

    def _shown(self, view: PipelineView) -> Pipeline:
        return Pipeline.of(view, self._statuses.pipeline(view.pipeline_id))

    def _answer(self, view: PipelineView, status: int = 200) -> Response:
        headers = {"etag": f'"{view.version}"'}
        if status == 201:
            headers["location"] = f"/v2/pipelines/{view.pipeline_id}"
        return written(self._shown(view), status, headers)


def _pipeline_id(request: Request) -> str:
    return check_id(request.path_params["pipeline_id"], "pipeline_id")


def _precondition(pipeline_id: str, expected: int, came: int) -> Problem:
    return Problem(412, f"expected version {expected} of {pipeline_id}, it is at {came} by now")
