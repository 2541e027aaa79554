"""The streams of `/v2`: predictions, statuses, events and previews, over HTTP or WebSocket.

A WebSocket has the same path and the same parameters.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.feeds.complete import CompleteStreams, Since
from streamfleet_api.feeds.events import MAX_KEPT, EventFeed
from streamfleet_api.feeds.filters import (
    Mark,
    Parameters,
    PredictionFilter,
    PreviewFilter,
    StatusFilter,
    WrongParameter,
    read_after,
    read_limit,
    read_source,
)
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.predictions import Predictions
from streamfleet_api.feeds.previews import Previews
from streamfleet_api.feeds.statuses import Statuses, as_of_now
from streamfleet_api.feeds.subscribers import Subscriber
from streamfleet_api.feeds.transports import MixedReplace, Sse, Streaming, Transport, WebSocket
from streamfleet_api.web.auth import TICKET_TTL, Tickets
from streamfleet_api.web.json_codec import Json
from streamfleet_api.web.problem_details import Problem
from streamfleet_api.web.validation import Invalid, check_id
from streamfleet_core.protocol.requests import GetPipeline, PipelineView

PREVIEW_TIMEOUT = 3.0  # seconds for one preview
_SLOW = 1.0  # frames/s; with fewer, a preview may take longer
_KEY = "x-streamfleet-key"

Subscription = contextlib.AbstractContextManager[Subscriber]
Opener = Callable[[HTTPConnection], Awaitable[Subscription]]
P = TypeVar("P")


class Streams:
    """The endpoints."""

    def __init__(
        self,
        broker: BrokerClient,
        pipeline_cache: PipelineCache,
        predictions: Predictions,
        statuses: Statuses,
        event_feed: EventFeed,
        complete: CompleteStreams,
        previews: Previews,
        tickets: Tickets,
    ) -> None:
        self._broker = broker
        self._pipeline_cache = pipeline_cache
        self._predictions = predictions
        self._statuses = statuses
        self._event_feed = event_feed
        self._complete = complete
        self._previews = previews
        self._tickets = tickets

    def routes(self) -> list[BaseRoute]:
        """The routes of all streams, their single values, and the tickets."""
        pipeline = "/v2/pipelines/{pipeline_id}"
        return [
            *_both("/v2/predictions", self.predictions, Sse),
            *_both("/v2/status", self.status, Sse),
            *_both("/v2/events", self.events, Sse),
            *_both(f"{pipeline}/pictures", self.pictures, MixedReplace),
            Route(f"{pipeline}/picture", self.picture, methods=["GET"]),
            Route(f"{pipeline}/predictions/last", self.last_prediction, methods=["GET"]),
            Route("/v2/events/recent", self.recent_events, methods=["GET"]),
            Route("/v2/tickets", self.ticket, methods=["POST"]),
        ]

    # streams ----------------------------------------------------------------------------------------------

    async def predictions(self, request: HTTPConnection) -> Subscription:
        """Stream predictions of all pipelines, or of those that match; with `since` complete ones."""
        chosen = _read(PredictionFilter.parse, request)
        last = request.headers.get("last-event-id")
        since = _read(lambda parameters: Since.parse(parameters, last, chosen), request)
        await self._check(chosen.pipelines, labelled=bool(chosen.selector.needs))
        if since is not None:
            return self._complete.subscribe(chosen, since)
        return self._predictions.subscribe(chosen)

    async def status(self, request: HTTPConnection) -> Subscription:
        """Stream statuses: first the last known ones, then new ones, once a second or two."""
        chosen = _read(StatusFilter.parse, request)
        await self._check(chosen.pipelines, labelled=bool(chosen.selector.needs))
        return self._statuses.subscribe(chosen)

    async def events(self, request: HTTPConnection) -> Subscription:
        """Stream events of pipelines and devices, new ones or those after an event."""
        last = request.headers.get("last-event-id")
        after: Mark | None = _read(lambda parameters: read_after(parameters, last), request)
        return self._event_feed.subscribe(after)

    async def pictures(self, request: HTTPConnection) -> Subscription:
        """Stream the previews of one source: always the newest one that fits."""
        view = await self._view(request)
        return self._previews.subscribe(_read_preview(view, request))

    # single values ----------------------------------------------------------------------------------------

    async def picture(self, request: Request) -> Response:
        """The next preview."""
        view = await self._view(request)
        with self._previews.subscribe(_read_preview(view, request)) as subscriber:
            try:
                await asyncio.wait_for(_first(subscriber), PREVIEW_TIMEOUT)
            except asyncio.TimeoutError as exc:
                raise Problem(504, f"no picture within {PREVIEW_TIMEOUT:g} s: {self._why(view)}") from exc
            (preview,) = subscriber.queue.take()
        headers = {
            "cache-control": "no-store",
            "cross-origin-resource-policy": "same-origin",
            _KEY: preview.id,
        }
        return Response(preview.data, 200, headers, "image/jpeg")

    async def last_prediction(self, request: Request) -> Response:
        """The last prediction, at most a second old."""
        view = await self._view(request)
        last = await self._predictions.last(view.pipeline_id, _read(read_source, request))
        if last is None:
            raise Problem(
                404, f"no prediction of {view.pipeline_id} since this api started: {self._why(view)}"
            )
        headers = {"cache-control": "no-store", _KEY: last.id}
        return Response(last.data, 200, headers, "application/json")

    async def recent_events(self, request: Request) -> Response:
        """The last events, oldest first; a stream can continue after `last`."""
        limit = _read(lambda parameters: read_limit(parameters, default=100, most=MAX_KEPT), request)
        events, last = self._event_feed.recent(limit)
        return Json({"events": events, "last": str(last)})

    async def ticket(self, _request: Request) -> Response:
        """Issue a ticket, which a page puts into the address of one stream instead of the token."""
        ticket = self._tickets.issue(time.monotonic())
        return Json({"ticket": ticket, "expires_in": TICKET_TTL}, 201, {"cache-control": "no-store"})

    async def _check(self, pipeline_ids: frozenset[str], *, labelled: bool) -> None:
        """Check that pipelines exist. Raises: BrokerClientError."""
        for pipeline_id in sorted(pipeline_ids):
            await self._broker.ask(GetPipeline(pipeline_id), PipelineView)
        if labelled:
            await self._pipeline_cache.refresh()

    async def _view(self, request: HTTPConnection) -> PipelineView:
        pipeline_id = check_id(request.path_params["pipeline_id"], "pipeline_id")
        return await self._broker.ask(GetPipeline(pipeline_id), PipelineView)

    def _why(self, view: PipelineView) -> str:
        """The likely reason for missing data."""
        seen = self._statuses.pipeline(view.pipeline_id)
        return why_nothing(view, None if seen is None else as_of_now(seen).fps)


class _Upgrade:
    """The WebSocket of a path."""

    def __init__(self, opener: Opener) -> None:
        self._open = opener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        await Streaming(await self._open(connection), WebSocket())(scope, receive, send)


def _both(path: str, opener: Opener, transport: Callable[[], Transport]) -> Iterator[BaseRoute]:
    async def endless(request: Request) -> ASGIApp:
        return Streaming(await opener(request), transport())

    endless.__doc__ = opener.__doc__
    yield Route(path, endless, methods=["GET"], name=opener.__name__)
    yield WebSocketRoute(path, _Upgrade(opener), name=f"{opener.__name__}_websocket")


def _read(parse: Callable[[Parameters], P], request: HTTPConnection) -> P:
    try:
        return parse(request.query_params.multi_items())
    except WrongParameter as exc:
        error = {"type": "value", "loc": ["query", exc.name], "msg": str(exc), "input": exc.got}
        raise Invalid([error]) from exc


def _read_preview(view: PipelineView, request: HTTPConnection) -> PreviewFilter:
    chosen = _read(lambda parameters: PreviewFilter.parse(view.pipeline_id, parameters), request)
    count = len(view.spec.sources)
    if chosen.source >= count:
        raise Problem(
            404, f"pipeline {view.pipeline_id} has {count} sources, the first is 0: no {chosen.source}"
        )
    return chosen


async def _first(subscriber: Subscriber) -> None:
    while not subscriber.queue:
        await subscriber.wait()


def why_nothing(view: PipelineView, fps: float | None) -> str:
    """The likely reason for missing data. `fps`: what its device told last; None if nothing."""
    if view.status == "running" and fps is not None and fps < _SLOW:
        return f"it runs on {view.device} at {fps:.1f} frames/s"
    if view.status == "running":
        return f"it runs on {view.device}, but its data does not reach this api"
    reason = f", {view.reason}" if view.reason else ""
    return f"the pipeline is {view.status}{reason}"
