"""`/v2/apply`: the fleet as a file says, in one request; `/v2/export`: the file for what is there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClient, Refused
from streamfleet_api.storage.blob_store import Blobs
from streamfleet_api.storage.model_registry import Models, UnknownModel
from streamfleet_api.v2.fleet_file.change_set import (
    ChangeSet,
    Foreign,
    change_set_of,
    differences,
    manager_of,
    removal_of,
)
from streamfleet_api.v2.fleet_file.checks import Checked, DeviceStep, FleetState, ModelStep, check
from streamfleet_api.v2.fleet_file.export import export
from streamfleet_api.v2.fleet_file.reading import ReadFile, read_file
from streamfleet_api.v2.fleet_file.requests import ApplyQuery, ExportQuery, FleetFile
from streamfleet_api.v2.fleet_file.schema import SCHEMA_TYPE, schema
from streamfleet_api.v2.request_reading import listed, parsed, query
from streamfleet_api.v2.responses import AppliedObject, ApplyResult, FieldChange
from streamfleet_api.web.endpoint import JSON, Answer, Content, Endpoint, native, written
from streamfleet_api.web.json_codec import Json
from streamfleet_api.web.problem_details import Problem, of_disk
from streamfleet_api.web.validation import Invalid
from streamfleet_core.documents.errors import BadDocument
from streamfleet_core.documents.node import Node, node_of
from streamfleet_core.documents.yaml_text import read_yaml
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.limits import MAX_APPLIED, MAX_SEEN
from streamfleet_core.protocol.requests import (
    Applied,
    ApplyPipelines,
    CordonDevice,
    DeviceView,
    LabelDevice,
)

YAML = "application/yaml"
_ATTEMPTS = 5  # if other clients change the same pipelines at the same time
_STOPPING = 5.0  # seconds to wait for pipelines that are being stopped, and are to be created again
_EVERY = 0.2  # seconds
_TIMEOUT = 15.0  # seconds for the broker to write all pipelines
TURN = 10.0  # seconds to wait for the files before
_SHOWN = 5  # pipelines in an error


class ApplyRoutes:
    """The endpoints."""

    def __init__(self, broker: BrokerClient, models: Models, blobs: Blobs) -> None:
        self._broker = broker
        self._models = models
        self._blobs = blobs
        self._applying = asyncio.Lock()  # one file after the other: none is planned on half of another

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
        tag = "files"
        return [
            Endpoint(
                *("POST", "/v2/apply", self.apply, "apply", "Let the fleet be as a file says", tag),
                {200: Answer("What was done with each object, or would be.", ApplyResult)},
                "Models are registered first, then devices are labelled and cordoned, then all pipelines are "
                "written at once, unless another client changes one of them meanwhile. An invalid file "
                "changes nothing. Errors of YAML have a line and a column.",
                body=Content(FleetFile, (JSON, YAML)),
                query=ApplyQuery,
                errors=native(409, 422, 507),
            ),
            Endpoint(
                *("GET", "/v2/export", self.export, "export", "The file for what is there", tag),
                {200: Answer("The file. Sources are without credentials.", schema={"type": "object"})},
                "Applied, it changes nothing: a source that is given as it is shown keeps its credentials.",
                query=ExportQuery,
                errors=native(409, 422),
            ),
            Endpoint(
                *("GET", "/v2/schema", self.schema, "get_schema", "The JSON Schema of such a file", tag),
                {200: Answer("The schema.", media=SCHEMA_TYPE, schema={"type": "object"})},
            ),
        ]

    async def schema(self, _request: Request) -> Response:
        """The schema for editors."""
        return Json(schema(), media_type=SCHEMA_TYPE)

    async def export(self, request: Request) -> Response:
        """The file of one manager's pipelines, with the models that they use and the settings of devices."""
        asked = query(request, ExportQuery)
        state = await self._state()
        managers = {manager_of(view) for view in state.pipelines}
        manager = asked.manager or None
        if asked.manager is None and len(managers) > 1:
            names = listed(name or "'' (none)" for name in managers)
            raise Problem(409, f"expected a manager in the query, as the pipelines have several: {names}")
        if asked.manager is None and managers:
            (manager,) = managers
        return Json(await asyncio.to_thread(_exported, manager, state))

    async def apply(self, request: Request) -> Response:
        """Apply a file, say what would change, or remove what is in it."""
        asked = query(request, ApplyQuery)
        try:
            root = await _document(request)
            read = await asyncio.to_thread(read_file, root)
            async with self._turn():
                result = await self._applied(read, asked)
        except BadDocument as exc:
            raise _invalid(exc) from exc
        return written(result)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until the files before are applied. Raises: Problem if it takes too long."""
        try:
            await asyncio.wait_for(self._applying.acquire(), TURN)
        except asyncio.TimeoutError as exc:
            text = f"another file is being applied, for more than {TURN:g} s; nothing has changed"
            raise Problem(503, text, headers={"retry-after": "5"}) from exc
        try:
            yield
        finally:
            self._applying.release()

    # steps ------------------------------------------------------------------------------------------------

    async def _applied(self, read: ReadFile, asked: ApplyQuery) -> ApplyResult:
        is_dry, deletes = asked.dry_run == "true", asked.delete == "true"
        checked, change_set = await self._compared(read, asked)
        objects: list[AppliedObject] = []
        if not deletes:
            objects += [_shown_model(step) for step in checked.models]
            objects += [_shown_device(step) for step in checked.devices]
        if not is_dry and not deletes:
            changed = [await self._put_models(checked.models), await self._set_devices(checked.devices)]
            if any(changed):
                checked, change_set = await self._compared(read, asked)
        for attempt in range(_ATTEMPTS):
            try:
                done = await self._put_pipelines(change_set, checked.devices if is_dry else None)
                break
            except Refused as exc:
                if exc.code != "conflict":
                    raise
                if attempt + 1 == _ATTEMPTS:
                    text = f"the pipelines were changed by others {_ATTEMPTS} times meanwhile: {exc.message}"
                    raise Problem(409, f"{text}; try again") from exc
            checked, change_set = await self._compared(read, asked)
        objects += _shown_pipelines(change_set, done)
        return ApplyResult(manager=read.file.manager, dry_run=is_dry, objects=objects)

    async def _compared(self, read: ReadFile, asked: ApplyQuery) -> tuple[Checked, ChangeSet]:
        """Compare the file with the fleet as it is now. Raises: BadDocument, Problem."""
        state = await self._state(_named_models(read))
        checked, change_set = await asyncio.to_thread(_compare, read, state, asked)
        if change_set.foreign:
            raise _foreign(change_set.foreign, read)
        if len(change_set.stops) > MAX_APPLIED or len(change_set.seen) > MAX_SEEN:
            text = f"expected at most {MAX_APPLIED} pipelines to be removed, got {len(change_set.stops)}"
            raise Problem(409, f"{text}: remove some with 'streamfleet terminate' first")
        return checked, change_set

    async def _state(self, named_models: Iterable[str] = ()) -> FleetState:
        """The fleet as it is. Models that only the cache has are registered if they are named."""
        pipelines, devices, models = await asyncio.gather(
            self._broker.pipelines(),
            self._broker.devices(),
            self._models.list(),
        )
        known, unusable = {model.id: model for model in models}, {}
        for model_id in sorted({*named_models} - known.keys()):
            try:
                known[model_id] = await self._models.find(model_id)
            except UnknownModel:  # noqa: PERF203 - each may be another one
                continue
            except BadModel as exc:
                unusable[model_id] = str(exc)
        return FleetState(
            pipelines=tuple(view for view in pipelines if view.desired_status != "stop"),
            devices=devices,
            models=known,
            unusable=unusable,
            manifest=functools.cache(self._models.manifest),
            has_blob=lambda digest: self._blobs.find(digest) is not None,
        )

    async def _put_models(self, steps: Sequence[ModelStep]) -> bool:
        """Register what the fleet lacks, after all of it was tried. Returns whether something changed."""
        todo = [step for step in steps if not step.is_done]
        inspected = []
        for step in todo:
            wanted, node = step.wanted, step.node
            weights = await asyncio.to_thread(self._blobs.verified, str(wanted.weights))
            if weights is None:
                text = f"content that was uploaded: PUT /v2/blobs/{wanted.weights} first"
                raise BadDocument(node.entries["weights"].wrong(text, kind="blob"))
            labels = None if wanted.labels is None else tuple(wanted.labels)
            try:
                inspected.append(await self._models.inspect(weights, family=wanted.family, labels=labels))
            except BadModel as exc:
                at = node.entries["weights"]
                raise BadDocument(at.wrong(f"a model that can be used: {exc}", kind="model")) from exc
        for step, manifest in zip(todo, inspected, strict=True):
            try:
                await self._models.register(step.wanted.id, manifest, replace=True)
            except OSError as exc:  # noqa: PERF203 - the disk may be full at each
                raise of_disk(exc) from exc
        return bool(todo)

    async def _set_devices(self, steps: Sequence[DeviceStep]) -> bool:
        """Label and cordon devices. Returns whether something changed."""
        changes: list[LabelDevice | CordonDevice] = []
        for step in steps:
            if step.before.labels != step.after.labels:
                changes.append(LabelDevice(step.name, step.after.labels))
            if step.before.cordoned != step.after.cordoned:
                changes.append(CordonDevice(step.name, step.after.cordoned))
        for change in changes:
            await self._broker.ask(change, DeviceView)
        return bool(changes)

    async def _put_pipelines(
        self, change_set: ChangeSet, supposed: Sequence[DeviceStep] | None
    ) -> dict[str, Applied]:
        """Change all pipelines in one write. Raises: Refused if another client has changed one.

        `supposed`: for a dry run, the devices as they would be before.
        """
        if change_set.is_empty:
            return {}
        is_dry = supposed is not None
        request = ApplyPipelines(
            puts=change_set.puts,
            stops=change_set.stops,
            seen=dict(change_set.seen),
            owned=change_set.owned,
            dry_run=is_dry,
            devices={step.name: step.after for step in supposed or () if step.before != step.after},
        )
        deadline = asyncio.get_running_loop().time() + _STOPPING
        done: dict[str, Applied] = {}
        while True:
            try:
                outcomes = await self._broker.ask(request, tuple[Applied, ...], timeout=_TIMEOUT)
            except Refused as exc:
                if not done or exc.code != "conflict":
                    raise
                return done  # the others are written: what is left keeps its refusal
            done |= {outcome.pipeline_id: outcome for outcome in outcomes}
            late = [put for put in request.puts if done[put.pipeline_id].refusal == "conflict"]
            if is_dry or not late or asyncio.get_running_loop().time() > deadline:
                return done
            await asyncio.sleep(_EVERY)  # one of this id is being stopped
            request = ApplyPipelines(puts=tuple(late), seen={put.pipeline_id: 0 for put in late})


async def _document(request: Request) -> Node:
    """The file in a body. Raises: Problem, Invalid, BadDocument."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == YAML:
        return await asyncio.to_thread(read_yaml, await request.body())
    return await asyncio.to_thread(node_of, await parsed(request, JSON, YAML))


def _exported(manager: str | None, state: FleetState) -> dict[str, Any]:
    """The file of a manager's pipelines. It reads the manifests of their models."""
    views = [view for view in state.pipelines if manager_of(view) == manager]
    used = {model for view in views for model in view.spec.models}
    manifests = {model: found for model in used if (found := state.manifest(model)) is not None}
    return export(manager, views, state.devices, manifests)


def _compare(read: ReadFile, state: FleetState, asked: ApplyQuery) -> tuple[Checked, ChangeSet]:
    """What the file says, and what it changes. It takes a while, and reads manifests. Raises: BadDocument."""
    manager, take_over = read.file.manager, asked.take_over == "true"
    if asked.delete == "true":
        removal = removal_of(_nodes_by_id(read), state.pipelines, manager=manager, take_over=take_over)
        return Checked((), (), ()), removal
    checked = check(read, state)
    return checked, change_set_of(
        checked.pipelines,
        state.pipelines,
        manager=manager,
        prune=asked.prune == "true",
        take_over=take_over,
    )


def _invalid(exc: BadDocument) -> Invalid:
    return Invalid(
        [
            {
                "type": finding.kind,
                "loc": ["body", *finding.path],
                "msg": f"Input should be {finding.expected}",
                "input": finding.got,
                "line": finding.line,
                "column": finding.column,
            }
            for finding in dict.fromkeys(exc.findings)  # of one template as often as it is used
        ]
    )


def _nodes_by_id(read: ReadFile) -> dict[str, Node]:
    """The pipelines of a file, valid or not, by their ids."""
    found = ((node.entries.get("id"), node) for node in read.pipelines)
    return {given.value: node for given, node in found if given is not None and isinstance(given.value, str)}


def _foreign(foreign: Sequence[Foreign], read: ReadFile) -> Problem:
    """The error for pipelines of other managers, with their places in the file."""
    nodes = _nodes_by_id(read)
    texts = []
    for each in foreign[:_SHOWN]:
        line = nodes[each.pipeline_id].line
        manager = f"of the manager {each.manager}" if each.manager else "of no manager"
        texts.append(f"{each.pipeline_id}{f' (line {line})' if line else ''} {manager}")
    more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
    whose = f"the manager {read.file.manager}" if read.file.manager else "no manager"
    text = f"expected pipelines of {whose}, these are there already: {', '.join(texts)}{more}"
    return Problem(409, f"{text}; take_over=true (--take-over) changes them all the same")


def _named_models(read: ReadFile) -> set[str]:
    """The models that pipelines of the file name, valid or not."""
    names: set[str] = set()
    for pipeline in read.pipelines:
        for node in (pipeline, *pipeline.items_of("stages")):
            model = node.entries.get("model")
            if model is not None and isinstance(model.value, str):
                names.add(model.value)
    return names - {model.id for model in read.file.models}


def _shown_model(step: ModelStep) -> AppliedObject:
    if step.is_done:
        return AppliedObject(kind="model", id=step.wanted.id, action="none")
    before = None if step.before is None else step.before.digest[:12]
    return AppliedObject(
        kind="model",
        id=step.wanted.id,
        action="create" if step.before is None else "update",
        changes=[FieldChange(field="weights", before=before, after=str(step.wanted.weights)[:12])],
        upload=None if step.has_content else step.wanted.weights,
    )


def _shown_device(step: DeviceStep) -> AppliedObject:
    changes = [
        FieldChange(field=each.field, before=each.before, after=each.after)
        for each in differences(asdict(step.before), asdict(step.after))
    ]
    return AppliedObject(kind="device", id=step.name, action="update" if changes else "none", changes=changes)


def _shown_pipelines(change_set: ChangeSet, done: dict[str, Applied]) -> list[AppliedObject]:
    shown = []
    for step in change_set.pipelines:
        outcome = done.get(step.pipeline_id, Applied(pipeline_id=step.pipeline_id))
        changes = [
            FieldChange(field=each.field, before=each.before, after=each.after) for each in step.changes
        ]
        shown.append(
            AppliedObject(
                kind="pipeline",
                id=step.pipeline_id,
                action=step.action,
                changes=changes,
                device=outcome.device,
                restarts=outcome.restarts,
                problem=outcome.message,
            )
        )
    return shown
