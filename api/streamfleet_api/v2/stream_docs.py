"""OpenAPI declarations of the streams and of their single values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field
from starlette.routing import BaseRoute, Route

from streamfleet_api.feeds.complete import MAX_PIPELINES, MAX_STREAMS, MAX_TEXT
from streamfleet_api.v2.requests import Body, Name
from streamfleet_api.v2.responses import EventList, Ticket
from streamfleet_api.web.endpoint import EVENTS, JSON, Answer, Endpoint, Header, native
from streamfleet_api.web.validation import ID_SCHEMA
from streamfleet_core.protocol.limits import MAX_SELECTOR, MAX_SOURCES

_TEXT = {"type": "string"}
_JPEG = {"type": "string", "contentMediaType": "image/jpeg"}
_ID = {"pipeline_id": ID_SCHEMA}
_KEY = {"X-Streamfleet-Key": "gen-inc-seq, as on ZeroMQ."}
_SOCKET = 'A WebSocket at the same address gets the same as JSON: `{"type", "id", "data"}`.'
_LATE = "A client that reads too slowly loses the oldest messages. `event: gap` reports their number."
_SINCE = (
    "With `since`, what was missed is fetched from the devices, a slow client loses nothing, and `event: gap`"
    f" tells what is gone, and why. At most {MAX_STREAMS} such streams of {MAX_PIPELINES} pipelines each."
)

SourceIndex = Annotated[int, Field(ge=0, lt=MAX_SOURCES)]
Labels = Annotated[str, Field(max_length=MAX_SELECTOR)]


class _Ticketed(Body):
    ticket: str | None = None
    """Instead of the token, from `POST /v2/tickets`."""


class PredictionsQuery(_Ticketed):
    """A filter of predictions. A repeated parameter matches any of its values."""

    pipeline: list[Name] | None = None
    device: list[Name] | None = None
    selector: Labels | None = None
    """Labels of the pipelines, as `site=hall-1,line`."""
    source: list[SourceIndex] | None = None
    class_: Annotated[list[str] | None, Field(alias="class")] = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    empty: bool | None = None
    """Include frames without a matching prediction."""
    since: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    """Each prediction once and in order, from here on: `now`, `oldest`, or the id of an event of such a
    stream. It needs `pipeline`, and no `selector`."""


class StatusQuery(_Ticketed):
    """A filter of statuses."""

    pipeline: list[Name] | None = None
    device: list[Name] | None = None
    selector: Labels | None = None
    """Labels of the pipelines, as `site=hall-1,line`."""


class EventsQuery(_Ticketed):
    """The event to start after."""

    after: Annotated[str, Field(pattern=r"^[0-9]{1,18}-[0-9]{1,18}$")] | None = None
    """The id of an event, EPOCH-N. Without it: new events only."""


class RecentQuery(Body):
    """The number of events."""

    limit: Annotated[int, Field(ge=1)] | None = None


class SourceQuery(Body):
    """The source."""

    source: SourceIndex | None = None


class PreviewQuery(_Ticketed):
    """The source."""

    source: SourceIndex | None = None


_LAST_EVENT = Header("Last-Event-ID", "Sent by a browser when it reconnects.", {"type": "string"})


def documented(routes: Iterable[BaseRoute]) -> list[Endpoint]:
    """The declared streams, with the handlers of these routes. Raises: KeyError."""
    handlers = {route.path: route.endpoint for route in routes if isinstance(route, Route)}
    return [_with_handler(declared, handlers[declared["path"]]) for declared in _DECLARED]


def _with_handler(declared: dict[str, Any], handler: Any) -> Endpoint:
    return Endpoint(**{"method": "GET", "tag": "streams", **declared}, handler=handler)


_PIPELINE = "/v2/pipelines/{pipeline_id}"
_DECLARED: list[dict[str, Any]] = [
    {
        "path": "/v2/predictions",
        "operation_id": "follow_predictions",
        "summary": "Predictions as they happen",
        "text": f"{_LATE} {_SOCKET} {_SINCE}",
        "answers": {200: Answer("Server-sent events, without end.", media=EVENTS, schema=_TEXT)},
        "query": PredictionsQuery,
        "headers": (_LAST_EVENT,),
        "errors": native(404, 422),
    },
    {
        "path": "/v2/status",
        "operation_id": "follow_status",
        "summary": "Statuses: first the last known ones, then new ones",
        "text": _SOCKET,
        "answers": {200: Answer("Server-sent events, without end.", media=EVENTS, schema=_TEXT)},
        "query": StatusQuery,
        "errors": native(404, 422),
    },
    {
        "path": "/v2/events",
        "operation_id": "follow_events",
        "summary": "Events of pipelines and devices",
        "text": f"{_LATE} {_SOCKET}",
        "answers": {200: Answer("Server-sent events, without end.", media=EVENTS, schema=_TEXT)},
        "query": EventsQuery,
        "headers": (_LAST_EVENT,),
        "errors": native(422),
    },
    {
        "path": "/v2/events/recent",
        "operation_id": "list_recent_events",
        "summary": "The last events, oldest first",
        "answers": {200: Answer("The events.", EventList)},
        "query": RecentQuery,
        "errors": native(422),
    },
    {
        "path": f"{_PIPELINE}/pictures",
        "operation_id": "follow_pictures",
        "summary": "Annotated frames, for an <img> element",
        "text": _SOCKET.replace('as JSON: `{"type", "id", "data"}`', "as JPEGs"),
        "answers": {
            200: Answer("JPEGs that replace one another.", media="multipart/x-mixed-replace", schema=_TEXT)
        },
        "query": PreviewQuery,
        "path_schemas": _ID,
        "errors": native(404, 422),
    },
    {
        "path": f"{_PIPELINE}/picture",
        "operation_id": "get_picture",
        "summary": "The next annotated frame",
        "answers": {200: Answer("A JPEG.", media="image/jpeg", schema=_JPEG, headers=_KEY)},
        "query": PreviewQuery,
        "path_schemas": _ID,
        "errors": native(404, 422, 504),
    },
    {
        "path": f"{_PIPELINE}/predictions/last",
        "operation_id": "get_last_prediction",
        "summary": "The last prediction since this api started",
        "answers": {200: Answer("The prediction.", media=JSON, schema={"type": "object"}, headers=_KEY)},
        "query": SourceQuery,
        "path_schemas": _ID,
        "errors": native(404, 422),
    },
    {
        "method": "POST",
        "path": "/v2/tickets",
        "operation_id": "issue_ticket",
        "summary": "A ticket for the address of one stream, instead of the token",
        "text": "It is valid once, for 30 s.",
        "answers": {201: Answer("The ticket.", Ticket)},
        "errors": native(403),
    },
]
