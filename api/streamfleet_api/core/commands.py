"""What the newer family does beyond the original's first one, for both of its doors: HTTP and TCP."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Collection

from streamfleet_api.core.consumers import Consumers
from streamfleet_api.core.payloads import InitialisePipelinePayload
from streamfleet_api.core.results import Consumed, Plan
from streamfleet_api.core.wish import wanted
from streamfleet_api.stream_manager import StreamManager
from streamfleet_broker.protocol.requests import PipelineView


class CoreCommands:
    """The commands. All raise Failure for what the original refuses, and LinkError without a broker."""

    def __init__(self, manager: StreamManager, consumers: Consumers) -> None:
        self._manager = manager
        self._consumers = consumers

    async def initialise(
        self, payload: InitialisePipelinePayload, *, pipeline_id: str | None = None
    ) -> PipelineView:
        """A new pipeline, under an id of our making; its results wait from the first one on."""
        wish = wanted(payload)
        pipeline_id = pipeline_id or str(uuid.uuid4())
        self._consumers.expect(pipeline_id, wish.plan)
        try:
            view = await self._manager.initialise(
                wish.workflow.model_id,
                functools.partial(wish.spec, learning=self._manager.learning),
                device=wish.device,
                pipeline_id=pipeline_id,
            )
        except BaseException:
            await self._consumers.forget(pipeline_id)
            raise
        await self._consumers.settle(pipeline_id)
        return view

    async def consume(self, pipeline_id: str, *, excluded: Collection[str] = ()) -> Consumed:
        """The oldest result that waits, of any pipeline of the fleet."""
        if not self._consumers.knows(pipeline_id):
            view = await self._manager.view(pipeline_id)
            plan = Plan(view.spec.model.id, len(view.spec.sources), kept=False)
            self._consumers.begin(pipeline_id, plan)
        return await self._consumers.consume(pipeline_id, excluded=excluded)

    async def terminate(self, pipeline_id: str) -> PipelineView:
        """The pipeline is gone, and with it what waits of it."""
        view = await self._manager.terminate(pipeline_id)
        await self._consumers.forget(pipeline_id)
        return view
