"""What the original's Stream Manager does, for each of its doors: two families of HTTP, and a TCP socket.

A door reads its own requests and words its own answers; what a command means is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from streamfleet_api.active_learning import ActiveLearning
from streamfleet_api.errors import NOTHING, UNREACHABLE, Failure, Unconfirmed
from streamfleet_api.link import Link, LinkError, Refused
from streamfleet_api.modelfile import BadModel
from streamfleet_api.models import Models, UnknownModel
from streamfleet_api.recent import Recent
from streamfleet_api.statuses import Statuses
from streamfleet_api.wishes import not_allowed, report_of
from streamfleet_broker.protocol.requests import (
    Changed,
    ChangePipeline,
    CreatePipeline,
    DeviceView,
    GetPipeline,
    ListDevices,
    ListPipelines,
    PipelineView,
)
from streamfleet_broker.protocol.values import ModelRef, PipelineSpec, Want

logger = logging.getLogger(__name__)

CONFIRM_WAIT = 5.0  # seconds that a device has to confirm a pause or its end
TERMINATE_WAIT = 1.5  # seconds; a terminated pipeline is gone for clients whether confirmed or not
_OVER = ("ended", "failed")
_MARGIN = 3.0  # seconds that the broker has beyond the wait
_UNDO_ATTEMPTS = 30  # to take back a pipeline whose creation nobody confirmed
_UNDO_PAUSE = 1.0  # seconds between two of them

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def _in_time(command: F) -> F:
    """A command that takes no longer than STREAM_MANAGER_OPERATIONS_TIMEOUT says. Raises: Unconfirmed."""

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

    All raise Failure for what the original refuses, LinkError without a broker, and Unconfirmed when they
    take longer than `timeout` seconds.
    """

    def __init__(
        self,
        link: Link,
        models: Models,
        statuses: Statuses,
        *,
        timeout: float | None = None,
        learning: ActiveLearning | None = None,
    ) -> None:
        self.timeout = timeout
        self.learning = learning or ActiveLearning()  # of pipelines whose request does not say
        self._link = link
        self._models = models
        self._statuses = statuses
        self._views = Recent(self._ask_for_views, lambda: link.changes)
        self._undoing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What is still to be taken back is, until the block ends."""
        try:
            yield
        finally:
            for task in self._undoing:
                task.cancel()
            await asyncio.gather(*self._undoing, return_exceptions=True)

    def listed(self) -> list[str] | None:
        """What `list` returns, where nobody must be asked."""
        views = self._views.known()
        return None if views is None else list(views)

    @_in_time
    async def list(self) -> list[str]:
        """The ids of all pipelines of the fleet, oldest first."""
        return list(await self._views.get())

    @_in_time
    async def report(self, pipeline_id: str) -> tuple[PipelineView, dict[str, Any]]:
        """What is known of a pipeline; no device is asked, so none can keep the answer back."""
        view = (self._views.known() or {}).get(pipeline_id) or await self.view(pipeline_id)
        return view, report_of(view, self._statuses.pipeline(pipeline_id))

    async def view(self, pipeline_id: str) -> PipelineView:
        """The pipeline as the broker has it."""
        try:
            return await self._link.ask(GetPipeline(pipeline_id), PipelineView)
        except Refused as exc:
            raise _as_original(exc) from exc

    @_in_time
    async def initialise(
        self,
        model_id: str,
        spec_of: Callable[[ModelRef], PipelineSpec],
        *,
        device: str | None = None,
        pipeline_id: str | None = None,
    ) -> PipelineView:
        """A new pipeline, under an id of our making. When this fails there is none."""
        await self._check_device(device)
        spec = spec_of(await self._model(model_id))
        create = CreatePipeline(pipeline_id or str(uuid.uuid4()), spec, device)
        try:
            return await self._link.ask(create, PipelineView)
        except Refused:
            raise  # there is none
        except (LinkError, asyncio.CancelledError):
            self._undo(create.pipeline_id)
            raise

    @_in_time
    async def mute(self, pipeline_id: str) -> PipelineView:
        """Pause: nothing is emitted any more when this returns. Raises: Unconfirmed."""
        view = await self.view(pipeline_id)
        if view.status == "paused" or view.status in _OVER:
            raise not_allowed("MUTE", view)
        return _confirmed("MUTE", await self._change(pipeline_id, "pause", _wait(view)))

    @_in_time
    async def resume(self, pipeline_id: str) -> PipelineView:
        """Emission goes on, for a file with the next frame. Raises: Unconfirmed."""
        view = await self.view(pipeline_id)
        if view.want == "run" and view.status != "paused":
            raise not_allowed("RESUME", view)
        return _confirmed("RESUME", await self._change(pipeline_id, "run", _wait(view)))

    @_in_time
    async def terminate(self, pipeline_id: str) -> PipelineView:
        """The pipeline is gone for clients at once; a device that is away ends it when it returns."""
        return (await self._change(pipeline_id, "stop", TERMINATE_WAIT)).pipeline

    async def _ask_for_views(self) -> dict[str, PipelineView]:
        views = await self._link.ask(ListPipelines(), tuple[PipelineView, ...])
        return {view.pipeline_id: view for view in views}

    async def _change(self, pipeline_id: str, want: Want, wait: float) -> Changed:
        change = ChangePipeline(pipeline_id, want, wait_ms=round(wait * 1000))
        try:
            return await self._link.ask(change, Changed, timeout=wait + _MARGIN)
        except Refused as exc:
            raise _as_original(exc) from exc

    def _undo(self, pipeline_id: str) -> None:
        """Nobody knows whether it was created, and its id nobody was told: it must not stay."""
        task = asyncio.create_task(self._take_back(pipeline_id), name=f"take back {pipeline_id}")
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _take_back(self, pipeline_id: str) -> None:
        for _ in range(_UNDO_ATTEMPTS):
            try:
                # It reaches the broker behind the creation, if that reached it at all.
                await self._link.ask(ChangePipeline(pipeline_id, "stop"), Changed)
            except Refused as exc:
                if exc.code == "not_found":
                    return
            except LinkError as exc:
                logger.debug("%s: not yet taken back: %s", pipeline_id, exc)
            else:
                logger.info("%s: taken back, as its creation was not confirmed in time", pipeline_id)
                return
            await asyncio.sleep(_UNDO_PAUSE)
        logger.warning("%s: may exist, though its creation was answered with a failure", pipeline_id)

    async def _check_device(self, device: str | None) -> None:
        if device is None:
            return
        known = [view.device for view in await self._link.ask(ListDevices(), tuple[DeviceView, ...])]
        if device not in known:
            names = ", ".join(known) or "none yet"
            text = f"expected device as one of the fleet's ({names}), came {device[:80]!r}"
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
    """Raises: Failure when the pipeline ended before it could change, Unconfirmed."""
    view = changed.pipeline
    if changed.confirmed or view.device is None:  # what no device has emits nothing, and will do as wished
        return view
    if view.status in _OVER:
        raise not_allowed(operation, view)
    raise Unconfirmed(
        f"{UNREACHABLE}: the wish to {view.want} is stored, but device {view.device} has not confirmed it "
        f"within {CONFIRM_WAIT:g} s"
    )


def _wait(view: PipelineView) -> float:
    """Seconds: nobody confirms for a pipeline that no device has."""
    return 0.0 if view.device is None else CONFIRM_WAIT


def _as_original(refused: Refused) -> Exception:
    """The original says nothing about an id that it does not know."""
    return Failure(404, "not_found", NOTHING) if refused.code == "not_found" else refused
