"""Commands that only `/inference_pipelines` has, for both of its interfaces: HTTP and TCP."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Collection

from streamfleet_api.roboflow.inference_pipelines.consumers import Consumers
from streamfleet_api.roboflow.inference_pipelines.mapping import map_request
from streamfleet_api.roboflow.inference_pipelines.results import Consumed, Plan
from streamfleet_api.roboflow.inference_pipelines.schemas import InitialisePipelinePayload
from streamfleet_api.roboflow.service import StreamManager
from streamfleet_core.protocol.requests import PipelineView


class InferencePipelineCommands:
    """The commands of `/inference_pipelines`.

    All raise Failure for what Roboflow refuses, and BrokerClientError without a broker.
    """

    def __init__(self, manager: StreamManager, consumers: Consumers) -> None:
        self._manager = manager
        self._consumers = consumers

    def knows(self, pipeline_id: str) -> bool:
        """Whether it was created here, or its results were consumed here."""
        return self._consumers.knows(pipeline_id)

    async def initialise(
        self, payload: InitialisePipelinePayload, *, pipeline_id: str | None = None
    ) -> PipelineView:
        """Create a pipeline, by default under a generated id. Its results are kept from the first one on."""
        mapped = map_request(payload)
        pipeline_id = pipeline_id or str(uuid.uuid4())
        self._consumers.expect(pipeline_id, mapped.plan)
        try:
            view = await self._manager.initialise(
                mapped.workflow.model_id,
                functools.partial(mapped.spec, learning=self._manager.learning),
                device=mapped.device,
                pipeline_id=pipeline_id,
            )
        except BaseException:
            await self._consumers.forget(pipeline_id)
            raise
        await self._consumers.settle(pipeline_id)
        return view

    async def consume(self, pipeline_id: str, *, excluded: Collection[str] = ()) -> Consumed:
        """Take the oldest result of any pipeline of the fleet."""
        if not self._consumers.knows(pipeline_id):
            view = await self._manager.view(pipeline_id)
            plan = Plan(model_id=view.spec.model.id, sources=len(view.spec.sources), kept=False)
            self._consumers.begin(pipeline_id, plan)
        return await self._consumers.consume(pipeline_id, excluded=excluded)

    async def terminate(self, pipeline_id: str) -> PipelineView:
        """Terminate a pipeline and drop its results."""
        view = await self._manager.terminate(pipeline_id)
        await self._consumers.forget(pipeline_id)
        return view
