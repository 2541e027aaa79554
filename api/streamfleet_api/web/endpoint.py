"""A route as it is declared: of this its place in the application and its documentation are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

JSON = "application/json"
EVENTS = "text/event-stream"

Handler = Callable[[Request], Awaitable[ASGIApp]]

# What any route of `/v2` may answer: the limits, the token, and what becomes of a question to the broker.
NATIVE_ERRORS = frozenset({400, 401, 403, 413, 415, 429, 502, 503})


@dataclass(frozen=True, slots=True)
class Answer:
    """A possible response of a route."""

    text: str
    model: Any = None  # a pydantic model or a dataclass; None: no body, or one of another type
    media: str = JSON
    schema: Mapping[str, Any] | None = None  # of a body without a model
    headers: Mapping[str, str] = field(default_factory=dict)  # name → what it says


@dataclass(frozen=True, slots=True)
class Header:
    """A header that a client may send."""

    name: str
    text: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """A body that a client sends."""

    model: type[BaseModel] | None  # None: bytes
    media: tuple[str, ...] = (JSON,)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str  # as Starlette writes it: `/v2/models/{model_id:path}`
    handler: Handler
    operation_id: str
    summary: str
    tag: str
    answers: Mapping[int, Answer]
    text: str = ""  # more than the summary says
    errors: frozenset[int] = NATIVE_ERRORS  # answered as problem details
    body: Content | None = None
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    path_schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    takes: bool = False  # a GET that changes something, so that it has no HEAD beside it


def routes_of(endpoints: Iterable[Endpoint]) -> list[Route]:
    """Convert endpoints to Starlette routes: one per path, so that a 405 lists all its methods."""
    paths: dict[str, dict[str, Handler]] = {}
    without_head: set[str] = set()
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint.handler
        if endpoint.takes:
            without_head.add(endpoint.path)
    routes = [Route(path, _by_method(handlers), methods=list(handlers)) for path, handlers in paths.items()]
    for route in routes:
        if route.path in without_head and route.methods:
            route.methods.discard("HEAD")  # which Starlette adds to each GET
    return routes


def _by_method(handlers: Mapping[str, Handler]) -> Callable[[Request], Awaitable[Any]]:
    async def handle(request: Request) -> ASGIApp:
        method = "GET" if request.method == "HEAD" else request.method
        return await handlers[method](request)

    return handle


def native(*more: int) -> frozenset[int]:
    """The errors of a route of `/v2`: those that all have, and some of its own."""
    return NATIVE_ERRORS | set(more)


def written(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer as JSON, its keys in the order of its fields."""
    return Response(answer.model_dump_json().encode(), status, headers, JSON)
