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
from streamfleet.requests import PipelineChanges, PipelineSettings
from streamfleet.results import (
    AddedModel,
    CommandResult,
    Dataset,
    Device,
    Event,
    Health,
    JoinToken,
    Model,
    Pipeline,
    PipelineReport,
    Readiness,
    Subscriber,
    SubscriberKeys,
)

T = TypeVar("T")

MODEL_TIMEOUT = 120.0  # seconds in which the api runs a new model once
_CONTENT_TIMEOUT = 120.0  # seconds in which nothing of a long body moves
_JSON = {"content-type": "application/json"}
_PATCH = {"content-type": "application/merge-patch+json"}
_ABSENT = 404

Values = Iterable[str] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request, and how to read its answer."""

    method: str
    path: str
    read: Callable[[Answer], T]
    body: bytes | Path | Iterable[bytes] = b""  # a file and pieces are sent as they are read
    into: IO[bytes] | None = None  # where the body of a success is written, of whatever length
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None  # seconds; None: the client's
    is_repeatable: bool  # whether sending it twice does what sending it once does
    accepts: frozenset[int] = frozenset()  # statuses, besides those of success, that `read` understands

    def result(self, answer: Answer, *, may_be_done: bool = False) -> T:
        """The value in an answer. `may_be_done`: an earlier attempt may have succeeded.

        Raises: ApiError, UnexpectedAnswer.
        """
        gone = self.method == "DELETE" and may_be_done and answer.status == _ABSENT
        if not (200 <= answer.status < 300 or answer.status in self.accepts or gone):
            raise error_in(answer)
        return self.read(answer)


@dataclass(frozen=True, slots=True)
class _Problem:
    title: str = ""
    detail: str = ""
    message: str = ""  # of the routes that answer as Roboflow's do
    errors: tuple[FieldError, ...] = ()


def error_in(answer: Answer) -> ApiError | UnexpectedAnswer:
    """What an answer says went wrong."""
    phrases = {each.value: each.phrase for each in HTTPStatus}
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    detail = problem.detail or problem.message
    if not detail or (detail == "Not Found" and not problem.title):
        return UnexpectedAnswer(f"it answers HTTP {answer.status}")
    title = problem.title or phrases.get(answer.status, "")
    return api_error(answer.status, title, detail, problem.errors)


def reads(of: type[T]) -> Callable[[Answer], T]:
    """How an answer is read as a value of this type."""

    def read(answer: Answer) -> T:
        try:
            return msgspec.json.decode(answer.body, type=of)
        except msgspec.ValidationError as exc:
            raise UnexpectedAnswer(f"its answer is not as expected: {exc}") from exc
        except msgspec.DecodeError as exc:
            raise UnexpectedAnswer("its answer is no JSON") from exc

    return read


def _reads_list(of: type[T], key: str) -> Callable[[Answer], tuple[T, ...]]:
    def read(answer: Answer) -> tuple[T, ...]:
        found = reads(dict[str, Any])(answer)
        if key not in found:
            raise UnexpectedAnswer(f"its answer has no {key}")
        try:
            return msgspec.convert(found[key], tuple[of, ...])  # type: ignore[valid-type]
        except msgspec.ValidationError as exc:
            raise UnexpectedAnswer(f"its {key} are not as expected: {exc}") from exc

    return read


def _nothing(_answer: Answer) -> None:
    return None


def _get(path: str, read: Callable[[Answer], T]) -> Call[T]:
    return Call(method="GET", path=path, read=read, is_repeatable=True)


def _delete(path: str) -> Call[None]:
    return Call(method="DELETE", path=path, read=_nothing, is_repeatable=True)


def query_of(**chosen: object) -> str:
    """A query of what was chosen, with its `?`: None is left out, and of several values each is named."""
    pairs = []
    for name, value in chosen.items():
        values = [value] if isinstance(value, str | int | float) else value or ()
        for each in values:  # type: ignore[attr-defined]
            text = str(each).lower() if isinstance(each, bool) else str(each)
            pairs.append((name.rstrip("_"), text))
    return f"?{urlencode(pairs)}" if pairs else ""


# the process ----------------------------------------------------------------------------------------------


def health() -> Call[Health]:
    """Whether the api answers."""
    return _get("/healthz", reads(Health))


def ready() -> Call[Readiness]:
    """Whether the broker answers, and how many devices are ready."""

    def read(answer: Answer) -> Readiness:
        if answer.status != HTTPStatus.OK and b'"devices_ready"' not in answer.body:
            raise error_in(answer)
        return reads(Readiness)(answer)

    return replace(_get("/readyz", read), accepts=frozenset({503}), is_repeatable=False)


# pipelines ------------------------------------------------------------------------------------------------


def create_pipeline(pipeline_id: str | None, settings: PipelineSettings, key: str) -> Call[Pipeline]:
    """A new pipeline. `key`: a text that no other request has."""
    wanted = {**settings, **({} if pipeline_id is None else {"id": pipeline_id})}
    return Call(
        method="POST",
        path="/v2/pipelines",
        read=reads(Pipeline),
        body=msgspec.json.encode(wanted),
        headers={**_JSON, "idempotency-key": key},
        is_repeatable=True,
    )


def put_pipeline(pipeline_id: str, settings: PipelineSettings, if_match: int | None) -> Call[Pipeline]:
    """A pipeline that is exactly so. With `if_match`, a repetition could find its own change."""
    return Call(
        method="PUT",
        path=_pipeline(pipeline_id),
        read=reads(Pipeline),
        body=msgspec.json.encode(settings),
        headers={**_JSON, **_if_match(if_match)},
        is_repeatable=if_match is None,
    )


def patch_pipeline(pipeline_id: str, changes: PipelineChanges, if_match: int | None) -> Call[Pipeline]:
    """A pipeline that is changed in part."""
    return Call(
        method="PATCH",
        path=_pipeline(pipeline_id),
        read=reads(Pipeline),
        body=msgspec.json.encode(changes),
        headers={**_PATCH, **_if_match(if_match)},
        is_repeatable=False,
    )


def get_pipeline(pipeline_id: str) -> Call[Pipeline]:
    """One pipeline."""
    return _get(_pipeline(pipeline_id), reads(Pipeline))


def list_pipelines(
    selector: str | None, status: str | None, device: str | None
) -> Call[tuple[Pipeline, ...]]:
    """The pipelines that meet all that is given."""
    query = query_of(selector=selector, status=status, device=device)
    return _get(f"/v2/pipelines{query}", _reads_list(Pipeline, "pipelines"))


def pipeline_report(pipeline_id: str) -> Call[PipelineReport]:
    """The whole present state of a pipeline."""
    return _get(f"{_pipeline(pipeline_id)}/status", reads(PipelineReport))


def pipeline_picture(pipeline_id: str, source: int | None) -> Call[bytes]:
    """The next picture. That none came in time is told at once, and not asked again."""
    path = f"{_pipeline(pipeline_id)}/picture{query_of(source=source)}"
    return Call(method="GET", path=path, read=lambda answer: answer.body, is_repeatable=False)


def command_pipeline(pipeline_id: str, command: str) -> Call[Pipeline]:
    """One pipeline paused, resumed or restarted."""
    path = f"{_pipeline(pipeline_id)}/{command}"
    return Call(method="POST", path=path, read=reads(Pipeline), is_repeatable=False)


def command_pipelines(
    command: str, ids: Iterable[str] | None, selector: str | None
) -> Call[tuple[CommandResult, ...]]:
    """One command for many pipelines."""
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
    """A pipeline that is ended and removed."""
    return _delete(_pipeline(pipeline_id))


def _pipeline(pipeline_id: str) -> str:
    return path_of("v2", "pipelines", pipeline_id)


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"if-match": f'"{version}"'}


# devices --------------------------------------------------------------------------------------------------


def list_devices(selector: str | None, state: str | None) -> Call[tuple[Device, ...]]:
    """The devices that meet all that is given."""
    return _get(f"/v2/devices{query_of(selector=selector, state=state)}", _reads_list(Device, "devices"))


def get_device(name: str) -> Call[Device]:
    """One device."""
    return _get(path_of("v2", "devices", name), reads(Device))


def add_device(name: str, ttl: float) -> Call[JoinToken]:
    """A token with which one device may join."""
    return Call(
        method="POST",
        path="/v2/devices",
        read=reads(JoinToken),
        body=msgspec.json.encode({"name": name, "ttl": ttl}),
        headers=_JSON,
        is_repeatable=False,
    )


def label_device(name: str, labels: Mapping[str, str | None]) -> Call[Device]:
    """A device whose labels are changed key by key."""
    return Call(
        method="PATCH",
        path=path_of("v2", "devices", name),
        read=reads(Device),
        body=msgspec.json.encode({"labels": labels}),
        headers=_PATCH,
        is_repeatable=False,
    )


def remove_device(name: str) -> Call[None]:
    """A device that is forgotten."""
    return _delete(path_of("v2", "devices", name))


# models ---------------------------------------------------------------------------------------------------


def list_models() -> Call[tuple[Model, ...]]:
    """The models that pipelines may name."""
    return _get("/v2/models", _reads_list(Model, "models"))


def get_model(model_id: str) -> Call[Model]:
    """One model."""
    return _get(_model(model_id), reads(Model))


def has_blob(digest: str) -> Call[bool]:
    """Whether this content is there. An error has no text here, and is told by `put_blob`."""
    return Call(
        method="HEAD",
        path=path_of("v2", "blobs", digest),
        read=lambda answer: answer.status == HTTPStatus.OK,
        is_repeatable=True,
        accepts=frozenset(range(400, 600)),
    )


def put_blob(digest: str, content: Path | Iterable[bytes]) -> Call[None]:
    """Content whose SHA-256 is its name."""
    return Call(
        method="PUT",
        path=path_of("v2", "blobs", digest),
        read=_nothing,
        body=content,
        timeout=_CONTENT_TIMEOUT,
        is_repeatable=isinstance(content, Path),  # pieces are gone when they are sent
    )


def put_model(
    model_id: str, digest: str, *, family: str | None, labels: Iterable[str] | None, replace: bool
) -> Call[AddedModel]:
    """A model whose content is there already."""
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


def remove_model(model_id: str, *, force: bool) -> Call[None]:
    """A model that pipelines may no longer name."""
    return _delete(f"{_model(model_id)}{query_of(force=force or None)}")


def _model(model_id: str) -> str:
    return path_of("v2", "models", *model_id.split("/"))


# samples --------------------------------------------------------------------------------------------------


def list_datasets() -> Call[tuple[Dataset, ...]]:
    """The datasets that have samples."""
    return _get("/v2/samples", _reads_list(Dataset, "datasets"))


def export_dataset(dataset: str, file: IO[bytes]) -> Call[None]:
    """The ZIP of a dataset."""
    return Call(
        method="GET",
        path=path_of("v2", "samples", dataset, "coco"),
        read=_nothing,
        into=file,
        timeout=_CONTENT_TIMEOUT,
        is_repeatable=False,  # what was written stays
    )


def remove_dataset(dataset: str) -> Call[None]:
    """A dataset without samples."""
    return _delete(path_of("v2", "samples", dataset))


# subscribers and streams ----------------------------------------------------------------------------------


def add_subscriber(
    name: str, url: str, *, device: str | None, pipelines: Iterable[str], selector: Mapping[str, str]
) -> Call[SubscriberKeys]:
    """Keys for a program elsewhere. `url` of this api: its host is the one that some endpoints mean."""
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
    """The keys with endpoints as they are reached from elsewhere: `*` in one is the host of the api's URL."""
    host = urlsplit(url).hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    endpoints = tuple(each.replace("*", host) for each in keys.endpoints)
    return replace(keys, endpoint=endpoints[0] if endpoints else keys.endpoint, endpoints=endpoints)


def list_subscribers() -> Call[tuple[Subscriber, ...]]:
    """The programs that may subscribe."""
    return _get("/v2/subscribers", _reads_list(Subscriber, "subscribers"))


def remove_subscriber(name: str) -> Call[None]:
    """A subscriber whose key is no longer accepted."""
    return _delete(path_of("v2", "subscribers", name))


def recent_events(limit: int) -> Call[tuple[Event, ...]]:
    """The last events, oldest first."""
    return _get(f"/v2/events/recent{query_of(limit=limit)}", _reads_list(Event, "events"))
