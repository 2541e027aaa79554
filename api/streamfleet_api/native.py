"""The fleet's own routes, `/v2`: devices, pipelines, models, blobs, subscribers, predictions."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from streamfleet_api.blobs import Blobs
from streamfleet_api.events import EventStream, Predictions
from streamfleet_api.link import Link
from streamfleet_api.models import Models
from streamfleet_api.problems import Problem
from streamfleet_api.schemas import (
    DeviceRequest,
    M,
    ModelRequest,
    SubscriberRequest,
    check_id,
    check_model_id,
    read,
)
from streamfleet_api.statuses import Statuses
from streamfleet_api.wire import Json
from streamfleet_broker.protocol.reference import sanitised
from streamfleet_broker.protocol.requests import (
    AddDevice,
    AddSubscriber,
    DeviceView,
    FleetView,
    GetFleet,
    GetPipeline,
    ListDevices,
    ListPipelines,
    PipelineView,
    Subscription,
    Token,
)
from streamfleet_broker.protocol.status import PipelineStat
from streamfleet_broker.protocol.values import Manifest, ModelRef, PipelineSpec, to_plain

BLOBS = "/v2/blobs/"
_SECRET = {"cache-control": "no-store"}


class Native:
    """The endpoints."""

    def __init__(
        self, link: Link, models: Models, blobs: Blobs, statuses: Statuses, predictions: Predictions
    ) -> None:
        self._link = link
        self._models = models
        self._blobs = blobs
        self._statuses = statuses
        self._predictions = predictions

    def routes(self) -> list[Route]:
        """Under `/v2`, and the two questions of whoever supervises this process."""
        return [
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/v2/devices", self.list_devices, methods=["GET"]),
            Route("/v2/devices", self.add_device, methods=["POST"]),
            Route("/v2/pipelines", self.list_pipelines, methods=["GET"]),
            Route("/v2/models", self.list_models, methods=["GET"]),
            Route("/v2/models/{model_id:path}", self.put_model, methods=["PUT"]),
            Route("/v2/subscribers", self.add_subscriber, methods=["POST"]),
            Route("/v2/predictions", self.follow, methods=["GET"]),
            Route(f"{BLOBS}{{digest}}", self.get_blob, methods=["GET", "HEAD"]),
            Route(f"{BLOBS}{{digest}}", self.put_blob, methods=["PUT"]),
        ]

    # the process ------------------------------------------------------------------------------------------

    async def healthz(self, _request: Request) -> Response:
        """This process answers; its pid tells whoever started it that it is this one."""
        return Json({"status": "ok", "pid": os.getpid()})

    async def readyz(self, _request: Request) -> Response:
        """The broker answers, and at least one device is ready."""
        fleet = await self._link.ask(GetFleet(), FleetView, timeout=2.0)
        ready = fleet.devices_ready > 0
        return Json(
            {"status": "ok" if ready else "no device is ready", **to_plain(fleet)}, 200 if ready else 503
        )

    # devices and pipelines --------------------------------------------------------------------------------

    async def list_devices(self, _request: Request) -> Response:
        """Every device, with the state of its engines as it told last."""
        views = await self._link.ask(ListDevices(), tuple[DeviceView, ...])
        return Json({"devices": [self._device(view) for view in views]})

    async def add_device(self, request: Request) -> Response:
        """A token with which one device may join, once."""
        asked = await _read(request, DeviceRequest)
        token = await self._link.ask(AddDevice(asked.name, asked.ttl), Token)
        return Json(to_plain(token), 201, _SECRET)

    async def list_pipelines(self, _request: Request) -> Response:
        """Every pipeline, oldest first, with its figures as its device told last."""
        views = await self._link.ask(ListPipelines(), tuple[PipelineView, ...])
        return Json({"pipelines": [self._pipeline(view) for view in views]})

    def _device(self, view: DeviceView) -> dict[str, Any]:
        seen = self._statuses.device(view.device)
        engines = to_plain(seen.stat.engines) if seen else []
        return {**to_plain(view), "engines": engines, "age": seen and round(seen.age, 3)}

    def _pipeline(self, view: PipelineView) -> dict[str, Any]:
        seen = self._statuses.pipeline(view.pipeline_id)
        figures: dict[str, Any] = {"fps": None, "age": None, "emitted": None, "dropped": None}
        if seen:
            figures["fps"] = round(seen.stat.fps, 2)
            figures["age"] = round(seen.age, 3)
            figures["emitted"] = sum(source.emitted for source in seen.stat.sources)
            figures["dropped"] = sum(_drops(seen.stat))
        return {**to_plain(view), "spec": _shown(view.spec), **figures}

    # models and blobs -------------------------------------------------------------------------------------

    async def list_models(self, _request: Request) -> Response:
        """Every model that a pipeline may name."""
        return Json({"models": [self._model(model) for model in await self._models.list()]})

    async def put_model(self, request: Request) -> Response:
        """Inspect a blob, and let pipelines name it."""
        model_id = check_model_id(request.path_params["model_id"])
        asked = await _read(request, ModelRequest)
        weights = self._blobs.find(asked.weights)
        if weights is None:
            raise Problem(404, f"expected the weights as a blob first: PUT {BLOBS}{asked.weights}")
        labels = None if asked.labels is None else tuple(asked.labels)
        done = await self._models.put(
            model_id, weights, family=asked.family, labels=labels, replace=asked.replace
        )
        replaces = {"replaces": done.replaces} if done.replaces else {}
        return Json({**_described(done.model, done.manifest), **replaces}, 201)

    async def get_blob(self, request: Request) -> Response:
        """Content, whole or from where a transfer broke off (Range)."""
        digest = request.path_params["digest"]
        path = self._blobs.find(digest)
        if path is None:
            raise Problem(404, f"no blob {digest[:64]!r} is here")
        headers = {"etag": f'"{digest}"', "x-content-type-options": "nosniff"}
        return FileResponse(path, headers=headers, media_type="application/octet-stream")

    async def put_blob(self, request: Request) -> Response:
        """Take content whose sha256 is the name."""
        digest = request.path_params["digest"]
        try:
            path = await self._blobs.put(digest, request.stream())
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Problem(507, "no room for it on the disk of the api") from exc
            raise
        return Json({"sha256": digest, "size": path.stat().st_size}, 201)

    def _model(self, model: ModelRef) -> dict[str, Any]:
        return _described(model, self._models.manifest(model))

    # subscribers and predictions --------------------------------------------------------------------------

    async def add_subscriber(self, request: Request) -> Response:
        """A key for a program that subscribes over TCP, to the relay or to one device itself."""
        asked = await _read(request, SubscriberRequest)
        subscription = await self._link.ask(AddSubscriber(asked.name, asked.device), Subscription)
        return Json(to_plain(subscription), 201, _SECRET)

    async def follow(self, request: Request) -> EventStream:
        """Predictions as they happen, of one pipeline or of all."""
        pipeline_id = request.query_params.get("pipeline")
        if pipeline_id is not None:
            check_id(pipeline_id, "pipeline")
            await self._link.ask(GetPipeline(pipeline_id), PipelineView)
        return EventStream(self._predictions, pipeline_id)


async def _read(request: Request, of: type[M]) -> M:
    """A body that says that it is JSON: a web page of somebody else cannot send one. (S27)"""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, f"expected Content-Type application/json, came {kind[:64] or 'none'}")
    return read(await request.body(), True, of)


def _described(model: ModelRef, manifest: Manifest | None) -> dict[str, Any]:
    known = to_plain(manifest) if manifest else {}
    return {"id": model.id, "digest": model.digest, **known}


def _drops(stat: PipelineStat) -> Iterator[int]:
    for source in stat.sources:
        yield from source.dropped.values()
    yield from stat.dropped.values()


def _shown(spec: PipelineSpec) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(spec)
    for source in plain["sources"]:
        source["reference"] = sanitised(source["reference"])
    return plain
