"""What flows under `/v2`: predictions, statuses, events, pictures; each as an endless answer or a WebSocket.

A WebSocket has the same path and the same parameters; a page of somebody else gets none. (S27)
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

from streamfleet_api.audience import Follower
from streamfleet_api.auth import TICKET_TTL, Tickets, is_own_page
from streamfleet_api.filters import (
    Mark,
    Parameters,
    PictureFilter,
    PredictionFilter,
    StatusFilter,
    WrongParameter,
    read_after,
    read_limit,
    read_source,
)
from streamfleet_api.happenings import MAX_KEPT, Happenings
from streamfleet_api.link import Link
from streamfleet_api.pictures import Pictures
from streamfleet_api.predictions import Predictions
from streamfleet_api.problems import Problem
from streamfleet_api.roster import Roster
from streamfleet_api.schemas import Invalid, check_id
from streamfleet_api.statuses import Statuses
from streamfleet_api.transports import MixedReplace, Sse, Streaming, Transport, WebSocket
from streamfleet_api.wire import Json
from streamfleet_broker.protocol.requests import GetPipeline, PipelineView

PICTURE_WAIT = 3.0  # seconds for one picture
_KEY = "x-streamfleet-key"

Following = contextlib.AbstractContextManager[Follower]
Opener = Callable[[HTTPConnection], Awaitable[Following]]
P = TypeVar("P")


class Streams:
    """The endpoints."""

    def __init__(
        self,
        link: Link,
        roster: Roster,
        predictions: Predictions,
        statuses: Statuses,
        happenings: Happenings,
        pictures: Pictures,
        tickets: Tickets,
    ) -> None:
        self._link = link
        self._roster = roster
        self._predictions = predictions
        self._statuses = statuses
        self._happenings = happenings
        self._pictures = pictures
        self._tickets = tickets

    def routes(self) -> list[BaseRoute]:
        """Each stream, what there is of it besides, and the tickets."""
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

    async def predictions(self, request: HTTPConnection) -> Following:
        """Predictions as they happen, of all pipelines or of those that were chosen."""
        chosen = _read(PredictionFilter.parse, request)
        await self._check(chosen.pipelines, labelled=bool(chosen.selector.needs))
        return self._predictions.follow(chosen)

    async def status(self, request: HTTPConnection) -> Following:
        """The last known status of everything that was chosen, and then each as it comes, once a second."""
        chosen = _read(StatusFilter.parse, request)
        await self._check(chosen.pipelines, labelled=bool(chosen.selector.needs))
        return self._statuses.follow(chosen)

    async def events(self, request: HTTPConnection) -> Following:
        """What happens to pipelines and devices, from now on or after an event."""
        last = request.headers.get("last-event-id")
        after: Mark | None = _read(lambda parameters: read_after(parameters, last), request)
        return self._happenings.follow(after)

    async def pictures(self, request: HTTPConnection) -> Following:
        """Pictures of one source with what was found in them, the newest whenever there is room for one."""
        view = await self._view(request)
        return self._pictures.follow(_read_picture(view, request))

    # one answer -------------------------------------------------------------------------------------------

    async def picture(self, request: Request) -> Response:
        """The next picture."""
        view = await self._view(request)
        with self._pictures.follow(_read_picture(view, request)) as follower:
            try:
                await asyncio.wait_for(_first(follower), PICTURE_WAIT)
            except asyncio.TimeoutError as exc:
                raise Problem(504, f"no picture came within {PICTURE_WAIT:g} s: {_why(view)}") from exc
            (picture,) = follower.backlog.take()
        headers = {
            "cache-control": "no-store",
            "cross-origin-resource-policy": "same-origin",
            _KEY: picture.id,
        }
        return Response(picture.data, 200, headers, "image/jpeg")

    async def last_prediction(self, request: Request) -> Response:
        """The last prediction, at most a second old."""
        view = await self._view(request)
        last = self._predictions.last(view.pipeline_id, _read(read_source, request))
        if last is None:
            raise Problem(
                404, f"no prediction of {view.pipeline_id} has come since this api began: {_why(view)}"
            )
        headers = {"cache-control": "no-store", _KEY: last.id}
        return Response(last.data, 200, headers, "application/json")

    async def recent_events(self, request: Request) -> Response:
        """The last events, oldest first; `last` is where a stream of them goes on."""
        limit = _read(lambda parameters: read_limit(parameters, default=100, most=MAX_KEPT), request)
        events, last = self._happenings.recent(limit)
        return Json({"events": events, "last": str(last)})

    async def ticket(self, request: Request) -> Response:
        """What a page puts into the address of one stream in place of the token."""
        if not is_own_page(request.headers):
            raise _foreign(request)
        ticket = self._tickets.issue(time.monotonic())
        return Json({"ticket": ticket, "expires_in": TICKET_TTL}, 201, {"cache-control": "no-store"})

    async def _check(self, pipeline_ids: frozenset[str], *, labelled: bool) -> None:
        """Raises: LinkError, for a pipeline that nobody knows or a broker that is away."""
        for pipeline_id in sorted(pipeline_ids):
            await self._link.ask(GetPipeline(pipeline_id), PipelineView)
        if labelled:
            await self._roster.look()

    async def _view(self, request: HTTPConnection) -> PipelineView:
        pipeline_id = check_id(request.path_params["pipeline_id"], "pipeline_id")
        return await self._link.ask(GetPipeline(pipeline_id), PipelineView)


class _Upgrade:
    """The WebSocket of a path."""

    def __init__(self, opener: Opener) -> None:
        self._open = opener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        if not is_own_page(connection.headers):
            raise _foreign(connection)
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
        error = {"type": "value", "loc": ["query", exc.name], "msg": str(exc), "input": exc.came}
        raise Invalid([error]) from exc


def _read_picture(view: PipelineView, request: HTTPConnection) -> PictureFilter:
    chosen = _read(lambda parameters: PictureFilter.parse(view.pipeline_id, parameters), request)
    count = len(view.spec.sources)
    if chosen.source >= count:
        raise Problem(
            404, f"pipeline {view.pipeline_id} has {count} sources, the first is 0: no {chosen.source}"
        )
    return chosen


async def _first(follower: Follower) -> None:
    while not follower.backlog:
        await follower.wait()


def _why(view: PipelineView) -> str:
    """The likely reason for silence."""
    if view.status == "running":
        return f"it runs on {view.device}, which does not reach this api with it"
    reason = f", {view.reason}" if view.reason else ""
    return f"the pipeline is {view.status}{reason}"


def _foreign(connection: HTTPConnection) -> Problem:
    origin = connection.headers["origin"][:80]
    return Problem(403, f"expected a program or a page of this api, came a page of {origin}")
