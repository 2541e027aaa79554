"""The commands of Roboflow's Stream Manager, for its three interfaces: two HTTP APIs and a TCP socket.

Each interface parses its own requests and formats its own responses. What a command does is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from streamfleet_api.broker_client import BrokerClient, BrokerClientError, Refused
from streamfleet_api.feeds.cached_query import CachedQuery
from streamfleet_api.feeds.statuses import Statuses
from streamfleet_api.roboflow.errors import NOTHING, UNREACHABLE, Failure, Unconfirmed
from streamfleet_api.roboflow.mapping import not_allowed, report_of
from streamfleet_api.sampling_presets import ActiveLearning
from streamfleet_api.storage.model_registry import Models, UnknownModel
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.requests import (
    Changed,
    ChangePipeline,
    CreatePipeline,
    GetPipeline,
    PipelineView,
)
from streamfleet_core.protocol.values import DesiredStatus, ModelRef, PipelineSpec

logger = logging.getLogger(__name__)

CONFIRM_WAIT = 5.0  # seconds that a device has to confirm a pause or its end
TERMINATE_WAIT = 1.5  # seconds; a terminated pipeline is gone for clients whether confirmed or not
_OVER = ("ended", "failed")
_MARGIN = 3.0  # seconds that the broker has beyond the wait
_UNDO_ATTEMPTS = 30  # to remove a pipeline whose creation was not confirmed
_UNDO_PAUSE = 1.0  # seconds between two of them

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def _in_time(command: F) -> F:
    """Limit a command to STREAM_MANAGER_OPERATIONS_TIMEOUT. Raises: Unconfirmed."""

    @functools.wraps(command)
    async def limited(self: StreamManager, *arguments: Any, **options: Any) -> Any:
        if self.timeout is None:
            return await command(self, *arguments, **options)
        try:
            return await asyncio.wait_for(command(self, *arguments, **options), self.timeout)
        except asyncio.TimeoutError as exc:
            raise Unconfirmed(f"{UNREACHABLE}: it took longer than {self.timeout:g} s") from exc

    return cast("F", limited)


class StreamManager:
    """The commands.

    All raise Failure for what Roboflow refuses, BrokerClientError without a broker, and Unconfirmed when they
    take longer than `timeout` seconds.
    """

    def __init__(
        self,
        broker: BrokerClient,
        models: Models,
        statuses: Statuses,
        *,
        timeout: float | None = None,
        learning: ActiveLearning | None = None,
    ) -> None:
        self.timeout = timeout
        self.learning = learning or ActiveLearning()  # for requests that leave it open
        self._broker = broker
        self._models = models
        self._statuses = statuses
        self._views = CachedQuery(self._ask_for_views, lambda: broker.changes)
        self._undoing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Remove unconfirmed pipelines in the background until the block ends."""
        try:
            yield
        finally:
            for task in self._undoing:
                task.cancel()
            await asyncio.gather(*self._undoing, return_exceptions=True)

    def listed(self) -> list[str] | None:
        """Return what `list` returns if it is cached, otherwise None."""
        views = self._views.known()
        return None if views is None else list(views)

    @_in_time
    async def list(self) -> list[str]:
        """The ids of all pipelines of the fleet, oldest first."""
        return list(await self._views.get())

    @_in_time
    async def report(self, pipeline_id: str) -> tuple[PipelineView, dict[str, Any]]:
        """The status report of a pipeline. It never waits for a device."""
        view = (self._views.known() or {}).get(pipeline_id) or await self.view(pipeline_id)
        return view, report_of(view, self._statuses.pipeline(pipeline_id))

    async def view(self, pipeline_id: str) -> PipelineView:
        """The pipeline as the broker knows it."""
        try:
            return await self._broker.ask(GetPipeline(pipeline_id), PipelineView)
        except Refused as exc:
            raise _as_roboflow_error(exc) from exc

    @_in_time
    async def initialise(
        self,
        model_id: str,
        spec_of: Callable[[ModelRef], PipelineSpec],
        *,
        device: str | None = None,
        pipeline_id: str | None = None,
    ) -> PipelineView:
        """Create a pipeline, by default under a generated id. If this fails, there is none."""
        await self._check_device(device)
        spec = spec_of(await self._model(model_id))
        create = CreatePipeline(pipeline_id=pipeline_id or str(uuid.uuid4()), spec=spec, device=device)
        try:
            return await self._broker.ask(create, PipelineView)
        except Refused:
            raise  # nothing was created
        except (BrokerClientError, asyncio.CancelledError):
            self._undo(create.pipeline_id)
            raise

    @_in_time
    async def mute(self, pipeline_id: str) -> PipelineView:
        """Pause a pipeline. When this returns, it emits nothing more. Raises: Unconfirmed."""
        view = await self.view(pipeline_id)
        if view.status == "paused" or view.status in _OVER:
            raise not_allowed("MUTE", view)
        return _confirmed("MUTE", await self._change(pipeline_id, "pause", _wait(view)))

    @_in_time
    async def resume(self, pipeline_id: str) -> PipelineView:
        """Resume a pipeline; a file continues with its next frame. Raises: Unconfirmed."""
        view = await self.view(pipeline_id)
        if view.desired_status == "run" and view.status != "paused":
            raise not_allowed("RESUME", view)
        return _confirmed("RESUME", await self._change(pipeline_id, "run", _wait(view)))

    @_in_time
    async def terminate(self, pipeline_id: str) -> PipelineView:
        """Terminate a pipeline. It is gone for clients at once; an absent device stops it on its return."""
        return (await self._change(pipeline_id, "stop", TERMINATE_WAIT)).pipeline

    async def _ask_for_views(self) -> dict[str, PipelineView]:
        views = await self._broker.pipelines()
        return {view.pipeline_id: view for view in views}

    async def _change(self, pipeline_id: str, desired_status: DesiredStatus, wait: float) -> Changed:
        change = ChangePipeline(pipeline_id, desired_status, wait_ms=round(wait * 1000))
        try:
            return await self._broker.ask(change, Changed, timeout=wait + _MARGIN)
        except Refused as exc:
            raise _as_roboflow_error(exc) from exc

    def _undo(self, pipeline_id: str) -> None:
        """Remove a pipeline that may have been created: no client knows its id."""
        task = asyncio.create_task(self._remove(pipeline_id), name=f"remove {pipeline_id}")
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _remove(self, pipeline_id: str) -> None:
        for _ in range(_UNDO_ATTEMPTS):
            try:
                # The broker receives it after the creation, if it received that at all.
                await self._broker.ask(ChangePipeline(pipeline_id, "stop"), Changed)
            except Refused as exc:
                if exc.code == "not_found":
                    return
            except BrokerClientError as exc:
                logger.debug("%s: not yet removed: %s", pipeline_id, exc)
            else:
                logger.info("%s: removed, because its creation was not confirmed in time", pipeline_id)
                return
            await asyncio.sleep(_UNDO_PAUSE)
        logger.warning("%s: may exist, though its creation was answered with a failure", pipeline_id)

    async def _check_device(self, device: str | None) -> None:
        if device is None:
            return
        known = [view.device for view in await self._broker.devices()]
        if device not in known:
            names = ", ".join(known) or "none yet"
            text = f"expected device as one of the fleet's ({names}), got {device[:80]!r}"
            raise Failure(400, "invalid_payload", text)

    async def _model(self, model_id: str) -> ModelRef:
        try:
            return await self._models.find(model_id)
        except UnknownModel as exc:
            raise Failure(404, "not_found", str(exc), error_class="RoboflowAPINotNotFoundError") from exc
        except BadModel as exc:
            text = f"model {model_id!r} of the model cache cannot be used: {exc}"
            raise Failure(400, "invalid_payload", text) from exc


def _confirmed(operation: str, changed: Changed) -> PipelineView:
    """The pipeline after a confirmed change. Raises: Failure if it ended before the change, Unconfirmed."""
    view = changed.pipeline
    if changed.confirmed or view.device is None:  # without a device there is nothing to confirm
        return view
    if view.status in _OVER:
        raise not_allowed(operation, view)
    raise Unconfirmed(
        f"{UNREACHABLE}: the change to {view.desired_status} is stored, but device {view.device} "
        f"has not confirmed it within {CONFIRM_WAIT:g} s"
    )


def _wait(view: PipelineView) -> float:
    """Seconds to wait: without a device there is nothing to wait for."""
    return 0.0 if view.device is None else CONFIRM_WAIT


def _as_roboflow_error(refused: Refused) -> Exception:
    """Map a refusal. For an unknown id Roboflow gives no details."""
    return Failure(404, "not_found", NOTHING) if refused.code == "not_found" else refused
