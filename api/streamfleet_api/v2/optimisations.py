"""`/v2/optimisations`: a device builds variants of a model, and uploads the one that may replace it.

operator ──POST──▶ broker ──desired state──▶ device ──PUT variant, with its ticket──▶ tried, registered
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.feeds.statuses import Statuses
from streamfleet_api.storage.blob_store import Blobs
from streamfleet_api.storage.model_registry import BlobInUse, Models, NotRegistered
from streamfleet_api.v2.models import BYTES, put_answer
from streamfleet_api.v2.request_reading import query, read
from streamfleet_api.v2.requests import OptimisationRequest, VariantQuery
from streamfleet_api.v2.responses import Optimisation, PutModelAnswer
from streamfleet_api.web.auth import device_of
from streamfleet_api.web.endpoint import Answer, Content, Endpoint, native, written
from streamfleet_api.web.problem_details import Problem, of_disk
from streamfleet_api.web.validation import ID_SCHEMA, check_id
from streamfleet_core.protocol.requests import (
    DeviceView,
    EndOptimisation,
    FindOptimisation,
    GetDevice,
    StartOptimisation,
)
from streamfleet_core.protocol.tasks import optimisation
from streamfleet_core.protocol.values import Manifest, Variant, Weights, from_plain

OPTIMISATIONS = "/v2/optimisations/"
_MORE = 1_048_576  # bytes that a variant may have more than its model: the scales of a small one
_UPLOAD_TIMEOUT = 900.0  # seconds for all bytes of a variant


class OptimisationRoutes:
    """The endpoints."""

    def __init__(self, broker: BrokerClient, statuses: Statuses, models: Models, blobs: Blobs) -> None:
        self._broker = broker
        self._statuses = statuses
        self._models = models
        self._blobs = blobs
        self._arriving: set[str] = set()  # the tasks whose variant is on its way: one at a time

    def endpoints(self) -> list[Endpoint]:
        """Declare the endpoints."""
        whole, one, tag = "/v2/optimisations", f"{OPTIMISATIONS}{{id}}", "models"
        path = {"id": ID_SCHEMA}
        return [
            Endpoint(
                *("POST", whole, self.start, "start_optimisation", "Build variants on a device", tag),
                {201: Answer("The device begins. Its status says how far it is.", Optimisation)},
                "A device builds for one model at a time. It uploads the best variant with the ticket of its "
                "session; the variant is tried and registered under the id of the model, as one that an "
                "operator adds.",
                body=Content(OptimisationRequest),
                errors=native(404, 409, 422),
            ),
            Endpoint(
                *("DELETE", one, self.cancel, "cancel_optimisation", "Cancel the building of variants", tag),
                {204: Answer("The device stops it, and removes what it has of it.")},
                path_schemas=path,
                errors=native(404, 422),
            ),
            Endpoint(
                *(
                    "PUT",
                    f"{one}/variant",
                    self.put,
                    "put_built_variant",
                    "Upload a variant as a device",
                    tag,
                ),
                {201: Answer("The model.", PutModelAnswer)},
                "For devices only, once for each task, and for the model and the board of the task.",
                query=VariantQuery,
                body=Content(None, (BYTES,)),
                path_schemas=path,
                errors=native(403, 404, 409, 413, 422, 507),
            ),
        ]

    async def start(self, request: Request) -> Response:
        """Let a device build variants."""
        asked = await read(request, OptimisationRequest)
        model = next((each for each in await self._models.list() if each.id == asked.model_id), None)
        if model is None or await asyncio.to_thread(self._models.manifest, model) is None:
            raise Problem(404, str(NotRegistered(asked.model_id)))
        view = await self._broker.ask(GetDevice(asked.device), DeviceView)
        seen = self._statuses.device(view.device)
        if view.state != "ready":
            raise Problem(409, f"{view.device} is {view.state}, expected a device that is ready")
        if seen is None or not seen.stat.board:
            raise Problem(409, f"{view.device} has not told its kind yet; try again in a few seconds")
        last = seen.stat.optimisation
        if last is not None and last.ended:  # its command was killed before it cancelled it
            await self._broker.ask(EndOptimisation(last.id), bool)
        wanted = optimisation.Optimisation(
            id=secrets.token_hex(8),
            model=model,
            board=seen.stat.board,
            pictures=asked.pictures,
            frames=asked.frames,
            least_agreement=asked.agreement,
            dry_run=asked.dry_run,
        )
        await self._broker.ask(StartOptimisation(view.device, wanted), object)
        shown = Optimisation(id=wanted.id, device=view.device, model_id=model.id, board=wanted.board)
        return written(shown, 201)

    async def cancel(self, request: Request) -> Response:
        """End a task that is not complete."""
        task_id = check_id(request.path_params["id"], "id")
        if not await self._broker.ask(EndOptimisation(task_id), bool):
            raise Problem(404, f"no optimisation {task_id}: it has ended, or never began")
        return Response(status_code=204)

    async def put(self, request: Request) -> Response:
        """Register the variant that a device was asked to build."""
        task_id = check_id(request.path_params["id"], "id")
        asked = query(request, VariantQuery)
        task = await self._task(request, task_id)
        _check(asked, task)
        if task_id in self._arriving:
            raise Problem(409, "its variant is being uploaded already")
        self._arriving.add(task_id)
        try:
            return await self._take(request, task, asked)
        except ClientDisconnect:
            return Response(status_code=400)  # the device is gone
        except (asyncio.TimeoutError, TimeoutError) as exc:
            raise Problem(503, "it, or the disk, took too long") from exc
        except NotRegistered as exc:
            raise Problem(404, str(exc)) from exc
        except OSError as exc:
            raise of_disk(exc) from exc
        finally:
            self._arriving.discard(task_id)

    async def _task(self, request: Request, task_id: str) -> optimisation.Optimisation:
        """What the sender was asked to build. Raises: Problem."""
        device = device_of(request)  # None: it has full access
        plain = await self._broker.ask(FindOptimisation(task_id, device), object)
        task = None if plain is None else from_plain(plain, optimisation.Optimisation)
        if task is None or task.dry_run:
            who = "this device" if device is None else device
            raise Problem(403, f"expected a variant that {who} was asked to upload, got one of {task_id}")
        return task

    async def _take(self, request: Request, task: optimisation.Optimisation, asked: VariantQuery) -> Response:
        """Raises: Problem, BadModel, NotRegistered, BlobError, OSError, ClientDisconnect."""
        manifest = await self._manifest(task)
        was_here = self._blobs.find(asked.weights) is not None
        is_taken = False
        try:
            path = await asyncio.wait_for(
                self._blobs.put(asked.weights, request.stream(), limit=manifest.weights.size + _MORE),
                _UPLOAD_TIMEOUT,
            )
            variant = _variant(asked, path)
            done = await self._models.add_variant(
                task.model.id, variant, of=manifest, confirm=lambda: self._complete(task)
            )
            is_taken = True
        finally:
            if not is_taken and not was_here:
                with contextlib.suppress(BlobInUse):
                    await self._models.remove_blob(asked.weights)
        return written(put_answer(done), 201)

    async def _manifest(self, task: optimisation.Optimisation) -> Manifest:
        """The model as it was when the device was asked. Raises: Problem."""
        manifest = await asyncio.to_thread(self._models.manifest, task.model)
        if manifest is None:
            raise Problem(404, str(NotRegistered(task.model.id)))
        return manifest

    async def _complete(self, task: optimisation.Optimisation) -> None:
        """Complete a task once. Raises: Problem, if it was cancelled or completed meanwhile."""
        if not await self._broker.ask(EndOptimisation(task.id), bool):
            raise Problem(409, "it was cancelled, or has a variant already")


def _check(asked: VariantQuery, task: optimisation.Optimisation) -> None:
    """Raises: Problem."""
    if asked.board != task.board:
        raise Problem(403, f"expected a variant for {task.board}, got one for {asked.board}")
    if asked.agreement < task.least_agreement:
        expected, got = task.least_agreement, asked.agreement
        raise Problem(422, f"expected an agreement of at least {expected:g}, got {got:g}")


def _variant(asked: VariantQuery, path: Path) -> Variant:
    return Variant(
        board=asked.board,
        provider=asked.provider,
        precision=asked.precision,
        weights=Weights(asked.weights, path.stat().st_size),
        speedup=asked.speedup,
        agreement=asked.agreement,
    )
