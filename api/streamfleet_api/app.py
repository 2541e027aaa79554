"""The web application: the middleware that a request passes, from the outermost to the routes.

metrics → authorisation, also of web pages → size limits → routes
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
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from streamfleet_api.broker_client import BrokerClient, BrokerClientError, Endpoints
from streamfleet_api.config import INSECURE, Config
from streamfleet_api.dashboard.routes import Page
from streamfleet_api.docs.routes import DocumentRoutes
from streamfleet_api.error_handlers import answer
from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.complete import CompleteStreams
from streamfleet_api.feeds.events import EventFeed
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.predictions import Predictions
from streamfleet_api.feeds.previews import Previews
from streamfleet_api.feeds.statuses import Statuses
from streamfleet_api.feeds.subscribers import StreamRefused, SubscriberRegistry
from streamfleet_api.monitoring.health import ProcessRoutes
from streamfleet_api.monitoring.metrics import Measure, Metrics, OwnFigures
from streamfleet_api.roboflow.errors import Failure, Unconfirmed
from streamfleet_api.roboflow.inference_pipelines.consumer_store import Records
from streamfleet_api.roboflow.inference_pipelines.consumers import Consumers
from streamfleet_api.roboflow.inference_pipelines.routes import InferencePipelineRoutes
from streamfleet_api.roboflow.inference_pipelines.service import InferencePipelineCommands
from streamfleet_api.roboflow.inference_pipelines.snapshots import Snapshots
from streamfleet_api.roboflow.service import StreamManager
from streamfleet_api.roboflow.stream_management import StreamManagementRoutes
from streamfleet_api.roboflow.tcp.commands import Commands
from streamfleet_api.roboflow.tcp.server import ManagerServer
from streamfleet_api.storage.blob_store import BlobError, Blobs
from streamfleet_api.storage.model_registry import BlobInUse, ModelExists, ModelInUse, ModelReplaced, Models
from streamfleet_api.storage.sample_store import Samples
from streamfleet_api.v2.apply import ApplyRoutes
from streamfleet_api.v2.commands import CommandRoutes
from streamfleet_api.v2.devices import DeviceRoutes
from streamfleet_api.v2.models import BLOBS, ModelRoutes
from streamfleet_api.v2.optimisations import OPTIMISATIONS, OptimisationRoutes
from streamfleet_api.v2.pipelines import PipelineRoutes
from streamfleet_api.v2.plan import PlanRoutes
from streamfleet_api.v2.rollouts import RolloutRoutes
from streamfleet_api.v2.samples import SAMPLES, SampleRoutes
from streamfleet_api.v2.stream_docs import documented
from streamfleet_api.v2.streams import Streams
from streamfleet_api.v2.subscribers import SubscriberRoutes
from streamfleet_api.web.access_policy import Policy
from streamfleet_api.web.auth import Authorise, Tickets, names_of_this_host
from streamfleet_api.web.body_limit import Limit
from streamfleet_api.web.connections import Connections, Limits
from streamfleet_api.web.endpoint import routes_of
from streamfleet_api.web.failed_logins import FailedLogins
from streamfleet_api.web.handshakes import KnownNetworks
from streamfleet_api.web.problem_details import Problem
from streamfleet_api.web.validation import Invalid
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.runtime.file_descriptors import DescriptorWatch, read_descriptors

_ANSWERED = (
    BadModel,
    BlobError,
    ClientDisconnect,  # before its body was complete: the client is gone
    Exception,  # a bug: answered without details, and logged by the server
    Failure,
    HTTPException,
    Invalid,
    BrokerClientError,
    BlobInUse,
    ModelExists,
    ModelInUse,
    ModelReplaced,
    Problem,
    StreamRefused,
    Unconfirmed,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The services that live as long as the application."""

    broker: BrokerClient
    blobs: Blobs
    samples: Samples
    subscribers: SubscriberRegistry
    pipeline_cache: PipelineCache
    statuses: Statuses
    predictions: Predictions
    complete: CompleteStreams
    event_feed: EventFeed
    previews: Previews
    connections: Connections
    known_networks: KnownNetworks
    descriptors: DescriptorWatch

    @classmethod
    def make(cls, config: Config, context: zmq.asyncio.Context) -> Services:
        """The services, not yet started."""
        broker = BrokerClient(context, *_each(config.broker), keys=config.keys)
        subscribers, pipeline_cache = SubscriberRegistry(stuck=config.stuck), PipelineCache(broker)
        return cls(
            broker=broker,
            blobs=Blobs(config.data_dir / "blobs", limit=config.max_upload),
            samples=Samples(config.data_dir / "samples", size=config.samples_size, age=config.samples_age),
            subscribers=subscribers,
            pipeline_cache=pipeline_cache,
            statuses=Statuses(context, config.predictions, config.keys, subscribers, pipeline_cache),
            predictions=Predictions(context, config.predictions, config.keys, subscribers, pipeline_cache),
            complete=CompleteStreams(context, config.predictions, config.keys, subscribers),
            event_feed=EventFeed(broker, subscribers, pipeline_cache),
            previews=Previews(context, config.pictures, config.keys, subscribers),
            connections=Connections(config.limits or Limits.of(read_descriptors().limit)),
            known_networks=KnownNetworks(),
            descriptors=DescriptorWatch(),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all services, and close them in reverse order."""
        self.blobs.open()
        async with contextlib.AsyncExitStack() as stack:
            services = (
                *(
                    self.broker,
                    self.pipeline_cache,
                    self.statuses,
                    self.predictions,
                    self.event_feed,
                    self.previews,
                ),
                *(self.samples, self.subscribers),
            )
            descriptors = Background("descriptors", self.descriptors.run)
            descriptors.start()
            stack.push_async_callback(descriptors.close)
            for service in services:
                await service.start()
                stack.push_async_callback(service.close)
            yield


def _each(endpoints: Endpoints) -> tuple[str, ...]:
    return (endpoints,) if isinstance(endpoints, str) else endpoints


def create_app(
    config: Config, services: Services, *, token: str, manager_listener: socket.socket | None = None
) -> Starlette:
    """Create the application. It starts and closes the services and the Stream Manager's port."""
    models = Models(services.broker, services.blobs, config.model_cache_dir)
    manager = StreamManager(
        services.broker,
        models,
        services.statuses,
        timeout=config.command_timeout,
        learning=config.learning,
    )
    consumers = Consumers(
        services.predictions,
        Snapshots(services.previews),
        services.pipeline_cache,
        Records(config.data_dir / "consumers"),
        terminate=manager.terminate,
    )
    inference_pipelines = InferencePipelineCommands(manager, consumers)
    failed_logins = FailedLogins()
    metrics = Metrics(
        services.broker,
        services.statuses,
        OwnFigures(failed_logins, services.connections, services.descriptors),
    )
    tickets = Tickets()
    streams = Streams(
        services.broker,
        services.pipeline_cache,
        services.predictions,
        services.statuses,
        services.event_feed,
        services.complete,
        services.previews,
        tickets,
    )
    policy = Policy(
        token=token,
        trust=config.trust,
        names=names_of_this_host() | config.allowed_hosts,
        origins=config.cors,
        insecure=config.insecure,
        has_tls=config.certificate is not None,
    )
    documents = DocumentRoutes()
    endpoints = [
        *StreamManagementRoutes(manager).endpoints(),
        *InferencePipelineRoutes(manager, inference_pipelines).endpoints(),
        *PipelineRoutes(services.broker, models, services.statuses).endpoints(),
        *PlanRoutes(services.broker, models).endpoints(),
        *CommandRoutes(services.broker, services.statuses).endpoints(),
        *ApplyRoutes(services.broker, models, services.blobs).endpoints(),
        *DeviceRoutes(services.broker, services.statuses).endpoints(),
        *SubscriberRoutes(services.broker).endpoints(),
        *RolloutRoutes(services.broker, models).endpoints(),
        *ModelRoutes(models, services.blobs).endpoints(),
        *OptimisationRoutes(services.broker, services.statuses, models, services.blobs).endpoints(),
        *SampleRoutes(services.samples, services.broker).endpoints(),
        *ProcessRoutes(services.broker, metrics, lambda: _warnings(config, services)).endpoints(),
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
            _listening(Commands(manager, inference_pipelines), manager_listener, config),
        ):
            yield

    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Measure, requests=metrics.requests, routes=templates),
            Middleware(
                Authorise,
                policy=policy,
                broker=services.broker,
                tickets=tickets,
                failed_logins=failed_logins,
                known=services.known_networks,
                answer=answer,
            ),
            Middleware(Limit, streamed=(BLOBS, OPTIMISATIONS, SAMPLES), answer=answer),
        ],
        exception_handlers=dict.fromkeys(_ANSWERED, _answer),
        lifespan=lifespan,
    )


def _warnings(config: Config, services: Services) -> list[str]:
    """Warnings for the operator of this process."""
    return [text for text in (services.descriptors.warning, INSECURE if config.insecure else "") if text]


@contextlib.asynccontextmanager
async def _listening(
    commands: Commands, listener: socket.socket | None, config: Config
) -> AsyncIterator[None]:
    """Serve the Stream Manager's commands over TCP, if a port is configured."""
    if listener is None:
        yield
        return
    server = ManagerServer(listener, commands, trust=config.trust, timeout=config.manager_timeout)
    await server.start()
    try:
        yield
    finally:
        await server.close()


async def _answer(request: Request, error: Exception) -> Response:
    return answer(request, error)
