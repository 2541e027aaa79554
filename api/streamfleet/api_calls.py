"""The requests of `/v2` and the meaning of their answers. Pure: `client` and `async_client` send them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from streamfleet.attempts import Answer
from streamfleet.connection import path_of
from streamfleet.errors import ApiError, FieldError, UnexpectedAnswer, api_error
from streamfleet.requests import PipelineChanges, PipelineSettings, RolloutSettings
from streamfleet.results import (
    AddedModel,
    ApplyResult,
    CommandResult,
    Dataset,
    Device,
    DevicePage,
    Event,
    Health,
    JoinToken,
    Model,
    ModelCard,
    Pipeline,
    PipelinePage,
    PipelineReport,
    Plan,
    Readiness,
    Rebalance,
    Rollout,
    Subscriber,
    SubscriberKeys,
    Variant,
)

T = TypeVar("T")

APPLY_TIMEOUT = 180.0  # seconds: the API runs each new model once, and waits for pipelines that stop
MODEL_TIMEOUT = 120.0  # seconds: the API runs a new model once before it responds
_CONTENT_TIMEOUT = 120.0  # seconds without progress of a long body
_JSON = {"content-type": "application/json"}
_YAML = {"content-type": "application/yaml"}
_PATCH = {"content-type": "application/merge-patch+json"}
_ABSENT = 404

Values = Iterable[str] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request, and the function that reads its response."""

    method: str
    path: str
    read: Callable[[Answer], T]
    body: bytes | Path | Iterable[bytes] = b""  # a path and an iterable are streamed
    into: IO[bytes] | None = None  # the body of a successful response is streamed to it
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None  # seconds; None: the timeout of the client
    is_repeatable: bool  # whether the request is idempotent
    accepts: frozenset[int] = frozenset()  # statuses besides 2xx that `read` understands

    def result(self, answer: Answer, *, may_have_succeeded: bool = False) -> T:
        """Return the value in a response. `may_have_succeeded`: an earlier attempt may have been carried out.

        Raises: ApiError, UnexpectedAnswer.
        """
        gone = self.method == "DELETE" and may_have_succeeded and answer.status == _ABSENT
        if not (200 <= answer.status < 300 or answer.status in self.accepts or gone):
            raise error_in(answer)
        return self.read(answer)


@dataclass(frozen=True, slots=True)
class _Problem:
    title: str = ""
    detail: str = ""
    message: str = ""  # of the routes with Roboflow's error format
    errors: tuple[FieldError, ...] = ()


def error_in(answer: Answer) -> ApiError | UnexpectedAnswer:
    """Return the error that a response describes."""
    phrases = {each.value: each.phrase for each in HTTPStatus}
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    detail = problem.detail or problem.message
    if not detail or (detail == "Not Found" and not problem.title):
        return UnexpectedAnswer(f"HTTP {answer.status}")
    title = problem.title or phrases.get(answer.status, "")
    return api_error(answer.status, title, detail, problem.errors)


def reads(of: type[T]) -> Callable[[Answer], T]:
    """Return a function that decodes a response as this type."""

    def read(answer: Answer) -> T:
        try:
            return msgspec.json.decode(answer.body, type=of)
        except msgspec.ValidationError as exc:
            raise UnexpectedAnswer(f"an invalid body: {exc}") from exc
        except msgspec.DecodeError as exc:
            raise UnexpectedAnswer("a body that is not JSON") from exc

    return read


def _reads_list(of: type[T], key: str) -> Callable[[Answer], tuple[T, ...]]:
    def read(answer: Answer) -> tuple[T, ...]:
        found = reads(dict[str, Any])(answer)
        if key not in found:
            raise UnexpectedAnswer(f"a body without {key}")
        try:
            return msgspec.convert(found[key], tuple[of, ...])  # type: ignore[valid-type]
        except msgspec.ValidationError as exc:
            raise UnexpectedAnswer(f"invalid {key}: {exc}") from exc

    return read


def _read_nothing(_answer: Answer) -> None:
    return None


def _get(path: str, read: Callable[[Answer], T]) -> Call[T]:
    return Call(method="GET", path=path, read=read, is_repeatable=True)


def _delete(path: str) -> Call[None]:
    return Call(method="DELETE", path=path, read=_read_nothing, is_repeatable=True)


def query_of(**chosen: object) -> str:
    """Return a query string with its `?`. None is omitted, and a sequence repeats its name for each value."""
    pairs = []
    for name, value in chosen.items():
        values = [value] if isinstance(value, str | int | float) else value or ()
        for each in values:  # type: ignore[attr-defined]
            text = str(each).lower() if isinstance(each, bool) else str(each)
            pairs.append((name.rstrip("_"), text))
    return f"?{urlencode(pairs)}" if pairs else ""


# the process ----------------------------------------------------------------------------------------------


def health() -> Call[Health]:
    """Get the health of the API process."""
    return _get("/healthz", reads(Health))


def ready() -> Call[Readiness]:
    """Get from the broker how many devices are ready."""

    def read(answer: Answer) -> Readiness:
        if answer.status != HTTPStatus.OK and b'"devices_ready"' not in answer.body:
            raise error_in(answer)
        return reads(Readiness)(answer)

    return replace(_get("/readyz", read), accepts=frozenset({503}), is_repeatable=False)


# pipelines ------------------------------------------------------------------------------------------------


def create_pipeline(pipeline_id: str | None, settings: PipelineSettings, key: str) -> Call[Pipeline]:
    """Create a pipeline. `key`: a unique `Idempotency-Key`."""
    fields = {**settings, **({} if pipeline_id is None else {"id": pipeline_id})}
    return Call(
        method="POST",
        path="/v2/pipelines",
        read=reads(Pipeline),
        body=msgspec.json.encode(fields),
        headers={**_JSON, "idempotency-key": key},
        is_repeatable=True,
    )


def put_pipeline(pipeline_id: str, settings: PipelineSettings, if_match: int | None) -> Call[Pipeline]:
    """Create or replace a pipeline. With `if_match` it is not idempotent: success changes the version."""
    return Call(
        method="PUT",
        path=_pipeline(pipeline_id),
        read=reads(Pipeline),
        body=msgspec.json.encode(settings),
        headers={**_JSON, **_if_match(if_match)},
        is_repeatable=if_match is None,
    )


def plan_pipelines(pipelines: Mapping[str, PipelineSettings]) -> Call[Plan]:
    """Ask where pipelines would go."""
    wanted = [{**settings, "id": pipeline_id} for pipeline_id, settings in pipelines.items()]
    return Call(
        method="POST",
        path="/v2/plan",
        read=reads(Plan),
        body=msgspec.json.encode({"pipelines": wanted}),
        headers=_JSON,
        is_repeatable=True,
    )


def patch_pipeline(pipeline_id: str, changes: PipelineChanges, if_match: int | None) -> Call[Pipeline]:
    """Change some settings of a pipeline."""
    return Call(
        method="PATCH",
        path=_pipeline(pipeline_id),
        read=reads(Pipeline),
        body=msgspec.json.encode(changes),
        headers={**_PATCH, **_if_match(if_match)},
        is_repeatable=False,
    )


def get_pipeline(pipeline_id: str) -> Call[Pipeline]:
    """Get one pipeline."""
    return _get(_pipeline(pipeline_id), reads(Pipeline))


def list_pipelines(
    selector: str | None, status: str | None, device: str | None
) -> Call[tuple[Pipeline, ...]]:
    """List the pipelines that match all given filters."""
    query = query_of(selector=selector, status=status, device=device)
    return _get(f"/v2/pipelines{query}", _reads_list(Pipeline, "pipelines"))


def page_of_pipelines(
    limit: int, after: str | None, selector: str | None, status: str | None, device: str | None
) -> Call[PipelinePage]:
    """List some of the pipelines that match all given filters."""
    query = query_of(selector=selector, status=status, device=device, limit=limit, after=after)
    return _get(f"/v2/pipelines{query}", reads(PipelinePage))


def pipeline_report(pipeline_id: str) -> Call[PipelineReport]:
    """Get the full status of a pipeline."""
    return _get(f"{_pipeline(pipeline_id)}/status", reads(PipelineReport))


def pipeline_picture(pipeline_id: str, source: int | None) -> Call[bytes]:
    """Get the next picture. A timeout is not retried, so that it is reported at once."""
    path = f"{_pipeline(pipeline_id)}/picture{query_of(source=source)}"
    return Call(method="GET", path=path, read=lambda answer: answer.body, is_repeatable=False)


def command_pipeline(pipeline_id: str, command: str) -> Call[Pipeline]:
    """Pause, resume or restart one pipeline."""
    path = f"{_pipeline(pipeline_id)}/{command}"
    return Call(method="POST", path=path, read=reads(Pipeline), is_repeatable=False)


def command_pipelines(
    command: str, ids: Iterable[str] | None, selector: str | None
) -> Call[tuple[CommandResult, ...]]:
    """Send one command to many pipelines."""
    chosen = {"ids": None if ids is None else list(ids), "selector": selector}
    body = {"command": command, **{name: value for name, value in chosen.items() if value is not None}}
    return Call(
        method="POST",
        path="/v2/commands",
        read=_reads_list(CommandResult, "results"),
        body=msgspec.json.encode(body),
        headers=_JSON,
        is_repeatable=False,
    )


def delete_pipeline(pipeline_id: str) -> Call[None]:
    """Stop and delete a pipeline."""
    return _delete(_pipeline(pipeline_id))


def _pipeline(pipeline_id: str) -> str:
    return path_of("v2", "pipelines", pipeline_id)


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"if-match": f'"{version}"'}


# a fleet as a file ----------------------------------------------------------------------------------------


def apply(
    document: Mapping[str, Any] | str | bytes, *, dry_run: bool, prune: bool, take_over: bool, delete: bool
) -> Call[ApplyResult]:
    """Let the fleet be as a document says: a value of JSON, or the text of a file."""
    query = query_of(
        dry_run=dry_run or None,
        prune=None if prune else False,
        take_over=take_over or None,
        delete=delete or None,
    )
    is_text = isinstance(document, str | bytes)
    body = document.encode() if isinstance(document, str) else document
    return Call(
        method="POST",
        path=f"/v2/apply{query}",
        read=reads(ApplyResult),
        body=body if isinstance(body, bytes) else msgspec.json.encode(body),
        headers=_YAML if is_text else _JSON,
        timeout=APPLY_TIMEOUT,
        is_repeatable=dry_run,
    )


def export(manager: str | None) -> Call[dict[str, Any]]:
    """Get the document for what is there."""
    return _get(f"/v2/export{query_of(manager=manager)}", reads(dict[str, Any]))


def file_schema() -> Call[dict[str, Any]]:
    """Get the JSON Schema of such a document."""
    return _get("/v2/schema", reads(dict[str, Any]))


# devices --------------------------------------------------------------------------------------------------


def list_devices(selector: str | None, state: str | None) -> Call[tuple[Device, ...]]:
    """List the devices that match all given filters."""
    return _get(f"/v2/devices{query_of(selector=selector, state=state)}", _reads_list(Device, "devices"))


def page_of_devices(
    limit: int, after: str | None, selector: str | None, state: str | None
) -> Call[DevicePage]:
    """List some of the devices that match all given filters."""
    query = query_of(selector=selector, state=state, limit=limit, after=after)
    return _get(f"/v2/devices{query}", reads(DevicePage))


def get_device(name: str) -> Call[Device]:
    """Get one device."""
    return _get(path_of("v2", "devices", name), reads(Device))


def add_device(name: str, ttl: float) -> Call[JoinToken]:
    """Create a token with which one device can join."""
    return Call(
        method="POST",
        path="/v2/devices",
        read=reads(JoinToken),
        body=msgspec.json.encode({"name": name, "ttl": ttl}),
        headers=_JSON,
        is_repeatable=False,
    )


def label_device(name: str, labels: Mapping[str, str | None]) -> Call[Device]:
    """Change labels of a device; None removes a label."""
    return Call(
        method="PATCH",
        path=path_of("v2", "devices", name),
        read=reads(Device),
        body=msgspec.json.encode({"labels": labels}),
        headers=_PATCH,
        is_repeatable=False,
    )


def cordon_device(name: str, *, cordoned: bool) -> Call[Device]:
    """Place no pipeline on a device any more, or again."""
    path = path_of("v2", "devices", name, "cordon" if cordoned else "uncordon")
    return Call(method="POST", path=path, read=reads(Device), is_repeatable=True)


def drain_device(name: str, force_after: float | None) -> Call[Device]:
    """Move all pipelines away from a device."""
    return Call(
        method="POST",
        path=path_of("v2", "devices", name, "drain"),
        read=reads(Device),
        body=msgspec.json.encode({"force_after": force_after}),
        headers=_JSON,
        is_repeatable=False,
    )


def rebalance_devices(*, dry_run: bool) -> Call[Rebalance]:
    """Move running pipelines from devices with much load to others with less."""
    return Call(
        method="POST",
        path="/v2/rebalance",
        read=reads(Rebalance),
        body=msgspec.json.encode({"dry_run": dry_run}),
        headers=_JSON,
        is_repeatable=dry_run,
    )


def remove_device(name: str) -> Call[None]:
    """Remove a device."""
    return _delete(path_of("v2", "devices", name))


def drill_device(name: str, fault: str, pipeline: str | None, seconds: float) -> Call[None]:
    """Have a device cause a fault."""
    return Call(
        method="POST",
        path=path_of("v2", "devices", name, "drill"),
        read=_read_nothing,
        body=msgspec.json.encode({"fault": fault, "pipeline": pipeline, "seconds": seconds}),
        headers=_JSON,
        is_repeatable=False,
    )


# models ---------------------------------------------------------------------------------------------------


def list_models() -> Call[tuple[Model, ...]]:
    """List the models that pipelines can use."""
    return _get("/v2/models", _reads_list(Model, "models"))


def get_model(model_id: str) -> Call[ModelCard]:
    """Get one model with its card."""
    return _get(_model(model_id), reads(ModelCard))


def has_blob(digest: str) -> Call[bool]:
    """Ask whether the fleet has this content. `put_blob` reports errors: a HEAD response has no text."""
    return Call(
        method="HEAD",
        path=path_of("v2", "blobs", digest),
        read=lambda answer: answer.status == HTTPStatus.OK,
        is_repeatable=True,
        accepts=frozenset(range(400, 600)),
    )


def put_blob(digest: str, content: Path | Iterable[bytes]) -> Call[None]:
    """Upload content under its SHA-256."""
    return Call(
        method="PUT",
        path=path_of("v2", "blobs", digest),
        read=_read_nothing,
        body=content,
        timeout=_CONTENT_TIMEOUT,
        is_repeatable=isinstance(content, Path),  # an iterable is read once
    )


def remove_blob(digest: str) -> Call[None]:
    """Delete content that nothing needs."""
    return _delete(path_of("v2", "blobs", digest))


def put_model(
    model_id: str, digest: str, *, family: str | None, labels: Iterable[str] | None, replace: bool
) -> Call[AddedModel]:
    """Register a model whose content was uploaded."""
    body = {
        "weights": digest,
        "family": family,
        "labels": None if labels is None else list(labels),
        "replace": replace,
    }
    return Call(
        method="PUT",
        path=_model(model_id),
        read=reads(AddedModel),
        body=msgspec.json.encode(body),
        headers=_JSON,
        timeout=MODEL_TIMEOUT,
        is_repeatable=True,
    )


def put_variant(model_id: str, variant: Variant) -> Call[AddedModel]:
    """Register a variant whose content was uploaded."""
    body = {**msgspec.to_builtins(variant), "weights": variant.weights.sha256}
    return Call(
        method="POST",
        path=f"{_model(model_id)}/variants",
        read=reads(AddedModel),
        body=msgspec.json.encode(body),
        headers=_JSON,
        timeout=MODEL_TIMEOUT,
        is_repeatable=True,
    )


def remove_model(model_id: str, *, force: bool) -> Call[None]:
    """Remove a model."""
    return _delete(f"{_model(model_id)}{query_of(force=force or None)}")


def _model(model_id: str) -> str:
    return path_of("v2", "models", *model_id.split("/"))


# samples --------------------------------------------------------------------------------------------------


def list_datasets() -> Call[tuple[Dataset, ...]]:
    """List the datasets that have samples."""
    return _get("/v2/samples", _reads_list(Dataset, "datasets"))


def export_dataset(dataset: str, file: IO[bytes]) -> Call[None]:
    """Export a dataset as a ZIP file."""
    return Call(
        method="GET",
        path=path_of("v2", "samples", dataset, "coco"),
        read=_read_nothing,
        into=file,
        timeout=_CONTENT_TIMEOUT,
        is_repeatable=False,  # the file may already hold a part of the ZIP
    )


def remove_dataset(dataset: str) -> Call[None]:
    """Delete all samples of a dataset."""
    return _delete(path_of("v2", "samples", dataset))


# roll-outs ------------------------------------------------------------------------------------------------


def start_rollout(old: str, new: str, rollout_id: str, settings: RolloutSettings) -> Call[Rollout]:
    """Start a roll-out. The same again changes nothing."""
    body = {**settings, "id": rollout_id, "model": old, "to": new}
    return Call(
        method="POST",
        path="/v2/rollouts",
        read=reads(Rollout),
        body=msgspec.json.encode(body),
        headers=_JSON,
        is_repeatable=True,
    )


def list_rollouts() -> Call[tuple[Rollout, ...]]:
    """List the last roll-outs."""
    return _get("/v2/rollouts", _reads_list(Rollout, "rollouts"))


def get_rollout(rollout_id: str) -> Call[Rollout]:
    """Get one roll-out."""
    return _get(path_of("v2", "rollouts", rollout_id), reads(Rollout))


def cancel_rollout(rollout_id: str, *, keep: bool) -> Call[Rollout]:
    """End a roll-out."""
    path = f"{path_of('v2', 'rollouts', rollout_id)}/cancel{query_of(keep=keep)}"
    return Call(method="POST", path=path, read=reads(Rollout), is_repeatable=False)


# subscribers and streams ----------------------------------------------------------------------------------


def add_subscriber(
    name: str, url: str, *, device: str | None, pipelines: Iterable[str], selector: Mapping[str, str]
) -> Call[SubscriberKeys]:
    """Create keys of a subscriber. `url` is that of the API: its host replaces `*` in endpoints."""
    body = {"name": name, "device": device, "pipelines": list(pipelines), "selector": selector}

    def read(answer: Answer) -> SubscriberKeys:
        return reachable(reads(SubscriberKeys)(answer), url)

    return Call(
        method="POST",
        path="/v2/subscribers",
        read=read,
        body=msgspec.json.encode(body),
        headers=_JSON,
        is_repeatable=False,
    )


def reachable(keys: SubscriberKeys, url: str) -> SubscriberKeys:
    """Return the keys with `*` in endpoints replaced by the host of the API's URL."""
    host = urlsplit(url).hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    endpoints = tuple(each.replace("*", host) for each in keys.endpoints)
    return replace(keys, endpoint=endpoints[0] if endpoints else keys.endpoint, endpoints=endpoints)


def list_subscribers() -> Call[tuple[Subscriber, ...]]:
    """List the subscribers."""
    return _get("/v2/subscribers", _reads_list(Subscriber, "subscribers"))


def remove_subscriber(name: str) -> Call[None]:
    """Revoke the key of a subscriber."""
    return _delete(path_of("v2", "subscribers", name))


def recent_events(limit: int) -> Call[tuple[Event, ...]]:
    """Get the last events, oldest first."""
    return _get(f"/v2/events/recent{query_of(limit=limit)}", _reads_list(Event, "events"))
