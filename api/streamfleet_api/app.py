"""The web application: what a request passes on its way in, from the outermost to the routes.

what is counted → CORS (the original's routes only) → who may ask → how large it may be → routes
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import zmq.asyncio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from streamfleet_api.audience import Audience, TooManyFollowers
from streamfleet_api.auth import Authorise, Door, Tickets, names_of_this_host
from streamfleet_api.blobs import BlobError, Blobs
from streamfleet_api.config import Config
from streamfleet_api.core.commands import CoreCommands
from streamfleet_api.core.consumers import Consumers
from streamfleet_api.core.records import Records
from streamfleet_api.core.routes import CoreRoutes
from streamfleet_api.core.views import Views
from streamfleet_api.errors import NATIVE, Failure, Unconfirmed, answer
from streamfleet_api.happenings import Happenings
from streamfleet_api.limits import Limit
from streamfleet_api.link import Link, LinkError
from streamfleet_api.manager.commands import Commands
from streamfleet_api.manager.server import ManagerServer
from streamfleet_api.metrics import Measure, Metrics
from streamfleet_api.modelfile import BadModel
from streamfleet_api.models import ModelExists, Models
from streamfleet_api.original import Original
from streamfleet_api.page import Page
from streamfleet_api.pictures import Pictures
from streamfleet_api.predictions import Predictions
from streamfleet_api.problems import Problem
from streamfleet_api.roster import Roster
from streamfleet_api.routes.devices import DeviceRoutes
from streamfleet_api.routes.documents import DocumentRoutes
from streamfleet_api.routes.endpoint import routes_of
from streamfleet_api.routes.models import BLOBS, ModelRoutes
from streamfleet_api.routes.pipelines import PipelineRoutes
from streamfleet_api.routes.process import ProcessRoutes
from streamfleet_api.routes.samples import SAMPLES, SampleRoutes
from streamfleet_api.routes.streams import documented
from streamfleet_api.samples import Samples
from streamfleet_api.schemas import Invalid
from streamfleet_api.statuses import Statuses
from streamfleet_api.stream_manager import StreamManager
from streamfleet_api.streams import Streams

_ANSWERED = (
    BadModel,
    BlobError,
    Exception,  # a bug of ours: answered without a word about it, and logged by the server
    Failure,
    HTTPException,
    Invalid,
    LinkError,
    ModelExists,
    Problem,
    TooManyFollowers,
    Unconfirmed,
)


@dataclass(frozen=True, slots=True)
class Services:
    """All that lives as long as the application."""

    link: Link
    blobs: Blobs
    samples: Samples
    audience: Audience
    roster: Roster
    statuses: Statuses
    predictions: Predictions
    happenings: Happenings
    pictures: Pictures

    @classmethod
    def make(cls, config: Config, context: zmq.asyncio.Context) -> Services:
        """The services, not yet started."""
        link = Link(context, config.broker, keys=config.keys)
        audience, roster = Audience(stuck=config.stuck), Roster(link)
        return cls(
            link,
            Blobs(config.data_dir / "blobs", limit=config.max_upload),
            Samples(config.data_dir / "samples", size=config.samples_size, age=config.samples_age),
            audience,
            roster,
            Statuses(context, config.predictions, config.keys, audience, roster),
            Predictions(context, config.predictions, config.keys, audience, roster),
            Happenings(link, audience, roster),
            Pictures(context, config.pictures, config.keys, audience),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all, and close all in the reverse order."""
        self.blobs.open()
        async with contextlib.AsyncExitStack() as stack:
            services = (
                *(self.link, self.roster, self.statuses, self.predictions, self.happenings, self.pictures),
                *(self.samples, self.audience),
            )
            for service in services:
                await service.start()
                stack.push_async_callback(service.close)
            yield


def create_app(
    config: Config, services: Services, *, token: str, manager_listener: socket.socket | None = None
) -> Starlette:
    """The application. It starts and closes the services with itself, and the Stream Manager's port."""
    models = Models(services.link, services.blobs, config.model_cache_dir)
    manager = StreamManager(
        services.link,
        models,
        services.statuses,
        timeout=config.command_timeout,
        learning=config.learning,
    )
    consumers = Consumers(
        services.predictions,
        Views(services.pictures),
        services.roster,
        Records(config.data_dir / "consumers"),
        terminate=manager.terminate,
    )
    core = CoreCommands(manager, consumers)
    metrics = Metrics(services.link, services.statuses)
    tickets = Tickets()
    streams = Streams(
        services.link,
        services.roster,
        services.predictions,
        services.statuses,
        services.happenings,
        services.pictures,
        tickets,
    )
    door = Door(token, config.trust, names_of_this_host())
    documents = DocumentRoutes()
    endpoints = [
        *Original(manager).endpoints(),
        *CoreRoutes(manager, core).endpoints(),
        *PipelineRoutes(services.link, models, services.statuses).endpoints(),
        *DeviceRoutes(services.link, services.statuses).endpoints(),
        *ModelRoutes(models, services.blobs).endpoints(),
        *SampleRoutes(services.samples).endpoints(),
        *ProcessRoutes(services.link, metrics).endpoints(),
        *documents.endpoints(),
    ]
    flowing = streams.routes()
    documents.describe([*endpoints, *documented(flowing)])
    routes = [*routes_of(endpoints), *flowing, *Page().routes()]
    templates = {route.endpoint: route.path for route in routes if isinstance(route, Route)}

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with (
            services.running(),
            manager.running(),
            consumers.running(),
            _listening(Commands(manager, core), manager_listener, config),
        ):
            yield

    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Measure, requests=metrics.requests, routes=templates),
            Middleware(_OriginalCors),
            Middleware(Authorise, door=door, link=services.link, tickets=tickets),
            Middleware(Limit, streamed=(BLOBS, SAMPLES)),
        ],
        exception_handlers=dict.fromkeys(_ANSWERED, _answer),
        lifespan=lifespan,
    )


@contextlib.asynccontextmanager
async def _listening(
    commands: Commands, listener: socket.socket | None, config: Config
) -> AsyncIterator[None]:
    """Serve the Stream Manager's commands over TCP, when there is a port for them."""
    if listener is None:
        yield
        return
    server = ManagerServer(listener, commands, trust=config.trust, silence=config.manager_silence)
    await server.start()
    try:
        yield
    finally:
        await server.close()


async def _answer(request: Request, error: Exception) -> Response:
    return answer(request, error)


class _OriginalCors:
    """Any origin may use the original's routes, but without credentials; none may use ours. (S26)"""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = CORSMiddleware(app, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        native = scope["type"] != "http" or scope["path"].startswith(NATIVE)
        await (self._app if native else self._open)(scope, receive, send)
