"""The web application: what a request passes on its way in, from the outermost to the routes.

CORS (the original's routes only) → who may ask → how large it may be → routes
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import zmq.asyncio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from streamfleet_api.auth import Authorise, Door, names_of_this_host
from streamfleet_api.blobs import BlobError, Blobs
from streamfleet_api.config import Config
from streamfleet_api.errors import NATIVE, Failure, answer
from streamfleet_api.events import Predictions, TooManyFollowers
from streamfleet_api.limits import Limit
from streamfleet_api.link import Link, LinkError
from streamfleet_api.modelfile import BadModel
from streamfleet_api.models import ModelExists, Models
from streamfleet_api.native import BLOBS, Native
from streamfleet_api.original import Original
from streamfleet_api.problems import Problem
from streamfleet_api.schemas import Invalid
from streamfleet_api.statuses import Statuses

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
)


@dataclass(frozen=True, slots=True)
class Services:
    """All that lives as long as the application."""

    link: Link
    blobs: Blobs
    statuses: Statuses
    predictions: Predictions

    @classmethod
    def make(cls, config: Config, context: zmq.asyncio.Context) -> Services:
        """The services, not yet started."""
        return cls(
            Link(context, config.broker, keys=config.keys),
            Blobs(config.data_dir / "blobs", limit=config.max_upload),
            Statuses(context, config.predictions, config.keys),
            Predictions(context, config.predictions, config.keys),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all, and close all in the reverse order."""
        self.blobs.open()
        async with contextlib.AsyncExitStack() as stack:
            for service in (self.link, self.statuses, self.predictions):
                await service.start()
                stack.push_async_callback(service.close)
            yield


def create_app(config: Config, services: Services, *, token: str) -> Starlette:
    """The application. It starts and closes the services with itself."""
    models = Models(services.link, services.blobs, config.model_cache_dir)
    original = Original(services.link, models, services.statuses)
    native = Native(services.link, models, services.blobs, services.statuses, services.predictions)
    door = Door(token, config.trust, names_of_this_host())

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with services.running():
            yield

    return Starlette(
        routes=[*original.routes(), *native.routes()],
        middleware=[
            Middleware(_OriginalCors),
            Middleware(Authorise, door=door, link=services.link),
            Middleware(Limit, streamed=BLOBS),
        ],
        exception_handlers=dict.fromkeys(_ANSWERED, _answer),
        lifespan=lifespan,
    )


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
