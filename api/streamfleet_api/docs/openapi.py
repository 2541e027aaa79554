"""Builds the OpenAPI document from the declared endpoints. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from streamfleet_api.roboflow import responses
from streamfleet_api.v2.responses import ProblemDetails
from streamfleet_api.web.endpoint import Answer, Endpoint, Header

REFERENCE = "#/components/schemas/{model}"
PROBLEM = "application/problem+json"

TAGS = {
    "pipelines": "A model that runs on video sources, on a device.",
    "streams": "Predictions, status and events as they happen.",
    "devices": "The machines of the fleet.",
    "models": "Models that pipelines can run.",
    "rollouts": "Models that take the place of others, a few pipelines at a time.",
    "blobs": "Content, addressed by its sha256.",
    "samples": "Images that devices selected for labelling.",
    "files": "The fleet as a file: pipelines, models, settings of devices.",
    "subscribers": "Programs that subscribe over ZeroMQ.",
    "fleet": "Health and metrics of this process.",
    "roboflow": "The six endpoints of Roboflow's Stream Management API, compatible with its clients.",
    "inference_pipelines": "Roboflow's `/inference_pipelines`: workflows of one model, and results to poll.",
}

_INTRODUCTION = """Video inference on a fleet of devices.

Programs on the api's own host and on trusted networks need no token; all others send
`Authorization: Bearer TOKEN`. Errors of `/v2` are problem details (RFC 9457) that say what was expected and
what was given."""

# Which direction a schema describes: a request may leave out fields that have a default.
_Mode = Literal["validation", "serialization"]
_Key = tuple[Any, _Mode]


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Build the OpenAPI 3.1.0 document."""
    shapes = _Shapes(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operations = paths.setdefault(template(endpoint.path), {})
        operations[endpoint.method.lower()] = _operation(endpoint, shapes)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Streamfleet", "version": version("streamfleet"), "description": _INTRODUCTION},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": shapes.definitions,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def template(path: str) -> str:
    """A path as OpenAPI writes it."""
    return re.sub(r"{(\w+):\w+}", r"{\1}", path)


class _Shapes:
    """The schemas of all request and response bodies, by name."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        keys: dict[_Key, None] = {(ProblemDetails, "serialization"): None}
        for endpoint in endpoints:
            if endpoint.body is not None and endpoint.body.model is not None:
                keys[(endpoint.body.model, "validation")] = None
            for answer in endpoint.answers.values():
                if answer.model is not None:
                    keys[(answer.model, mode_of(answer.model))] = None
        inputs = [(index, mode, TypeAdapter(model)) for index, (model, mode) in enumerate(keys)]
        schemas, whole = TypeAdapter.json_schemas(inputs, ref_template=REFERENCE)
        self._schemas = {key: schemas[(index, key[1])] for index, key in enumerate(keys)}
        self.definitions: dict[str, Any] = whole.get("$defs", {})

    def of(self, model: Any, mode: _Mode) -> dict[str, Any]:
        """The reference to a model's schema."""
        return dict(self._schemas[(model, mode)])


def mode_of(model: Any) -> _Mode:
    """Roboflow documents responses like requests; ours say which keys are always present."""
    is_roboflow = isinstance(model, type) and model.__module__ == responses.__name__
    return "validation" if is_roboflow else "serialization"


def _operation(endpoint: Endpoint, shapes: _Shapes) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.operation_id,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
    }
    if endpoint.text:
        operation["description"] = endpoint.text
    parameters = [*_of_path(endpoint), *_of_query(endpoint.query), *map(_of_header, endpoint.headers)]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        model = endpoint.body.model
        content = {"schema": shapes.of(model, "validation")} if model is not None else {}
        operation["requestBody"] = {
            "required": endpoint.body.required,
            "content": dict.fromkeys(endpoint.body.media, content),
        }
    answers = {status: _answer(answer, shapes) for status, answer in endpoint.answers.items()}
    answers |= {status: _problem(status, shapes) for status in endpoint.errors}
    operation["responses"] = {str(status): answers[status] for status in sorted(answers)}
    return operation


def _of_path(endpoint: Endpoint) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)(?::\w+)?}", endpoint.path)
    return [
        {"name": name, "in": "path", "required": True, "schema": dict(endpoint.path_schemas[name])}
        for name in names
    ]


def _of_query(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    schema = query.model_json_schema(mode="validation", by_alias=True)
    parameters = []
    for name, each in schema["properties"].items():
        shape = {key: value for key, value in each.items() if key not in ("description", "default", "title")}
        choices = shape.pop("anyOf", None)
        if choices is not None:  # null means absent, which a query cannot express
            shape |= next(choice for choice in choices if choice != {"type": "null"})
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        parameters.append({**parameter, "description": each.get("description", ""), "schema": shape})
    return parameters


def _of_header(header: Header) -> dict[str, Any]:
    return {
        "name": header.name,
        "in": "header",
        "required": False,
        "description": header.text,
        "schema": dict(header.schema),
    }


def _answer(answer: Answer, shapes: _Shapes) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.text}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in answer.headers.items()
        }
    if answer.model is not None:
        described["content"] = {answer.media: {"schema": shapes.of(answer.model, mode_of(answer.model))}}
    elif answer.schema is not None:
        described["content"] = {answer.media: {"schema": dict(answer.schema)}}
    return described


def _problem(status: int, shapes: _Shapes) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM: {"schema": shapes.of(ProblemDetails, "serialization")}},
    }
