"""`/v2/pipelines`: the desired pipelines: replaced (PUT), changed in part (PATCH), paused and so on."""

from __future__ import annotations

import uuid

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import PAGE, BrokerClient, Refused
from streamfleet_api.feeds.statuses import Statuses
from streamfleet_api.storage.model_registry import Models
from streamfleet_api.v2.mapping import Resolved, create, model_places, named_classes, patched, put
from streamfleet_api.v2.model_lookup import find_models
from streamfleet_api.v2.pages import Page, fields_of
from streamfleet_api.v2.request_reading import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    MERGE_PATCH,
    idempotency_key,
    if_match,
    listed,
    query,
    read,
    selector_of,
)
from streamfleet_api.v2.requests import NewPipelineRequest, PipelinePatch, PipelineQuery, PipelineRequest
from streamfleet_api.v2.responses import Pipeline, PipelineList, PipelineReport
from streamfleet_api.web.endpoint import JSON, Answer, Content, Endpoint, Handler, native, written
from streamfleet_api.web.problem_details import Problem
from streamfleet_api.web.validation import ID_SCHEMA, Invalid, check_id
from streamfleet_core.models.kept_classes import expected_class, unknown_names
from streamfleet_core.protocol.requests import (
    Changed,
    ChangePipeline,
    GetPipeline,
    PipelineView,
    Put,
    RestartPipeline,
)
from streamfleet_core.protocol.values import DesiredStatus, ModelRef

CONFIRM_WAIT = 5.0  # seconds for a device to confirm a command
STOP_WAIT = 1.5  # seconds; a deleted pipeline is gone for clients, confirmed or not
MARGIN = 3.0  # seconds that the broker has beyond the wait
_PATCHES = 5  # attempts if other clients change the same pipeline at the same time
_OVER = ("ended", "failed")

_ID = {"pipeline_id": ID_SCHEMA}
_ETAG = {"ETag": "The version, for If-Match."}
_ONE = Answer("The pipeline.", Pipeline, headers=_ETAG)
_CREATED = Answer("The new pipeline.", Pipeline, headers={**_ETAG, "Location": "Its address."})


class PipelineRoutes:
    """The endpoints."""

    def __init__(self, broker: BrokerClient, models: Models, statuses: Statuses) -> None:
        self._broker = broker
        self._models = models
        self._statuses = statuses

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
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
                *("POST", whole, self.create, "create_pipeline", "Create a pipeline", tag),
                {201: _CREATED},
                "If the id exists with the same content, the pipeline is returned, otherwise 409.",
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
                *("PUT", one, self.put, "put_pipeline", "Create or replace a pipeline", tag),
                {200: _ONE, 201: _CREATED},
                "It is idempotent. Thresholds, rates, what sources leave out, sinks, tracker, labels and "
                "`paused` change while the pipeline runs; a different model, stage, source or device "
                "restarts it.",
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
                *("DELETE", one, self.delete, "delete_pipeline", "Stop and delete a pipeline", tag),
                {204: Answer("The pipeline was deleted. An absent device stops it on its return.")},
                path_schemas=_ID,
                errors=native(404, 422),
            ),
            self._command("pause", self.pause, "Pause a pipeline; a file stays at its frame"),
            self._command("resume", self.resume, "Resume a pipeline"),
            self._command("restart", self.restart, "Restart a pipeline, even if it has ended or failed"),
            Endpoint(
                *("GET", f"{one}/status", self.status, "get_pipeline_status"),
                *("The complete state of a pipeline, as its device reported it last", tag),
                {200: Answer("The state.", PipelineReport)},
                path_schemas=_ID,
                errors=native(404, 422),
            ),
        ]

    @staticmethod
    def _command(word: str, handler: Handler, summary: str) -> Endpoint:
        late = Answer("The change is stored; the device has not confirmed it yet.", Pipeline, headers=_ETAG)
        return Endpoint(
            *("POST", f"/v2/pipelines/{{pipeline_id}}/{word}", handler),
            *(f"{word}_pipeline", summary, "pipelines"),
            {200: _ONE} if word == "restart" else {200: _ONE, 202: late},
            path_schemas=_ID,
            errors=native(403, 404, 409, 422),
        )

    # reading ----------------------------------------------------------------------------------------------

    async def list(self, request: Request) -> Response:
        """The pipelines that match the query."""
        asked = query(request, PipelineQuery)
        selector = selector_of(asked.selector)
        page = Page("pipelines", asked.limit, fields_of(asked.fields, Pipeline))
        is_narrowed = bool(selector.needs) or asked.status is not None or asked.device is not None
        size = PAGE if is_narrowed else min(PAGE, asked.limit or PAGE)
        after, views = int(asked.after or 0), None
        while not page.is_full and (views is None or len(views) == size):
            views = await self._broker.page_of_pipelines(after, size)
            for view in views:
                after = view.order
                if (
                    selector.meets(view.labels)
                    and asked.status in (None, view.status)
                    and asked.device in (None, view.device)
                ):
                    page.add(self._shown(view), str(after))
                if page.is_full:
                    break
        return page.response()

    async def get(self, request: Request) -> Response:
        """One pipeline, with its version as ETag."""
        return self._answer(await self._view(request))

    async def status(self, request: Request) -> Response:
        """The last report of its device, or what the broker knows before the first one."""
        view = await self._view(request)
        return written(PipelineReport.of(view, self._statuses.pipeline(view.pipeline_id)))

    # writing ----------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Create a pipeline under the id in the body, or a generated one."""
        key = idempotency_key(request)
        asked = await read(request, NewPipelineRequest)
        await self._check_device(asked.device)
        models = await self._resolve(asked)
        self._check_classes(asked, models[asked.model])
        view = await self._broker.ask(create(asked, asked.id or str(uuid.uuid4()), models, key), PipelineView)
        return self._answer(view, 201)

    async def put(self, request: Request) -> Response:
        """Create or replace a pipeline."""
        pipeline_id = _pipeline_id(request)
        tag = if_match(request)
        asked = await read(request, PipelineRequest)
        await self._check_device(asked.device)
        expected = await self._expected(pipeline_id, tag)
        models = await self._resolve(asked)
        self._check_classes(asked, models[asked.model])
        done = await self._put(pipeline_id, asked, models, expected)
        return self._answer(done.pipeline, 201 if done.created else 200)

    async def patch(self, request: Request) -> Response:
        """Read, change and put a pipeline. Start again if another client changed it meanwhile."""
        pipeline_id = _pipeline_id(request)
        tag = if_match(request)
        patch = await read(request, PipelinePatch, MERGE_PATCH, JSON)
        await self._check_device(patch.device)
        found = await find_models(self._models, model_places(patch.model, patch.stages or ()))
        for attempt in range(_PATCHES):
            view = await self._broker.ask(GetPipeline(pipeline_id), PipelineView)
            if view.desired_status == "stop":
                raise Problem(409, f"{pipeline_id} is being stopped: it cannot be changed any more")
            if isinstance(tag, int) and tag != view.version:
                raise _precondition(pipeline_id, tag, view.version)
            asked, models = patched(view, patch), {**_known(view), **found}
            if any(part is not None for part in (patch.model, patch.sources, patch.stages)):
                self._check_classes(asked, models[asked.model])
            try:
                done = await self._put(pipeline_id, asked, models, view.version)
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
        """Delete a pipeline. It is gone for clients at once."""
        await self._change(_pipeline_id(request), "stop", STOP_WAIT)
        return Response(status_code=204)

    # commands ---------------------------------------------------------------------------------------------

    async def pause(self, request: Request) -> Response:
        """Pause a pipeline. After a 200 it emits nothing more."""
        return await self._do(request, "pause")

    async def resume(self, request: Request) -> Response:
        """Resume a pipeline."""
        return await self._do(request, "run")

    async def restart(self, request: Request) -> Response:
        """Restart a pipeline."""
        return self._answer(await self._broker.ask(RestartPipeline(_pipeline_id(request)), PipelineView))

    async def _do(self, request: Request, desired_status: DesiredStatus) -> Response:
        view = await self._view(request)
        if is_over(view):
            raise over(view, desired_status)
        # Without a device there is nothing to confirm.
        try:
            changed = await self._change(
                view.pipeline_id, desired_status, CONFIRM_WAIT if view.device else 0.0
            )
        except Refused as exc:
            if exc.code != "conflict" or view.desired_status != desired_status:
                raise
            return self._answer(view, status_of_same(view))
        is_done = changed.confirmed or changed.pipeline.device is None
        return self._answer(changed.pipeline, 200 if is_done else 202)

    # helpers ----------------------------------------------------------------------------------------------

    async def _view(self, request: Request) -> PipelineView:
        return await self._broker.ask(GetPipeline(_pipeline_id(request)), PipelineView)

    async def _change(self, pipeline_id: str, desired_status: DesiredStatus, wait: float) -> Changed:
        change = ChangePipeline(pipeline_id, desired_status, wait_ms=round(wait * 1000))
        return await self._broker.ask(change, Changed, timeout=wait + MARGIN)

    async def _put(
        self, pipeline_id: str, asked: PipelineRequest, models: Resolved, expected: int | None
    ) -> Put:
        """Put a pipeline. Raises: Problem 412 if it does not have the expected version."""
        try:
            return await self._broker.ask(put(asked, pipeline_id, models, expected=expected), Put)
        except Refused as exc:
            if exc.code == "conflict" and expected is not None:
                raise Problem(412, exc.message) from exc
            raise

    async def _expected(self, pipeline_id: str, tag: int | str | None) -> int | None:
        if not isinstance(tag, str):
            return tag
        try:
            return (await self._broker.ask(GetPipeline(pipeline_id), PipelineView)).version
        except Refused as exc:
            if exc.code == "not_found":
                raise Problem(412, f"expected pipeline {pipeline_id} to exist, it does not") from exc
            raise

    async def _check_device(self, device: str | None) -> None:
        if device is None:
            return
        known = [view.device for view in await self._broker.devices()]
        if device not in known:
            text = f"Input should be a device of the fleet: {listed(known)}"
            raise Invalid([{"type": "device", "loc": ["body", "device"], "msg": text, "input": device}])

    def _check_classes(self, asked: PipelineRequest, model: ModelRef) -> None:
        """Refuse names that are no classes of the model. Raises: Invalid."""
        if not (named := list(named_classes(asked))):
            return
        manifest = self._models.manifest(model)
        if manifest is None:  # its device says what is wrong
            return
        for place, names in named:
            for index in unknown_names(names, manifest.labels)[:1]:
                text = f"Input should be {expected_class(names[index], manifest.labels)}"
                error = {"type": "class", "loc": [*place, index], "msg": text, "input": names[index]}
                raise Invalid([error])

    async def _resolve(self, asked: PipelineRequest) -> Resolved:
        return await find_models(self._models, model_places(asked.model, asked.stages))

    def _shown(self, view: PipelineView) -> Pipeline:
        return Pipeline.of(view, self._statuses.pipeline(view.pipeline_id))

    def _answer(self, view: PipelineView, status: int = 200) -> Response:
        headers = {"etag": f'"{view.version}"'}
        if status == 201:
            headers["location"] = f"/v2/pipelines/{view.pipeline_id}"
        return written(self._shown(view), status, headers)


def _pipeline_id(request: Request) -> str:
    return check_id(request.path_params["pipeline_id"], "pipeline_id")


def _known(view: PipelineView) -> dict[str, ModelRef]:
    """The content of the models of a pipeline, which a patch of other things does not change."""
    return {model.id: model for model in view.spec.models}


def is_over(view: PipelineView) -> bool:
    """Whether it can no longer be paused or resumed."""
    return view.status in _OVER or view.desired_status == "stop"


def over(view: PipelineView, desired_status: str) -> Problem:
    """The error for a command to a pipeline that is over."""
    done = "paused" if desired_status == "pause" else "resumed"
    again = "restart runs it again" if view.desired_status != "stop" else "it is being stopped"
    return Problem(409, f"{view.pipeline_id} is {view.status} and cannot be {done}: {again}")


def status_of_same(view: PipelineView) -> int:
    """The status for a command that the broker refuses as already desired: done, or not yet confirmed."""
    return 200 if view.desired_status == "run" or view.status == "paused" or view.device is None else 202


def _precondition(pipeline_id: str, expected: int, got: int) -> Problem:
    return Problem(412, f"expected version {expected} of {pipeline_id}, it is at {got} by now")
