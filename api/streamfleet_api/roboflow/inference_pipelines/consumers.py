"""Consumers that fetch the results of a pipeline one by one: a ring of results for each pipeline.

A pipeline that was created for a consumer has a ring from its start, also after a restart of the api. Every
other pipeline gets one at the first request, and loses it after a while without requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

from streamfleet_api.broker_client import BrokerClientError
from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.predictions import Predictions
from streamfleet_api.roboflow.errors import Failure, Unconfirmed
from streamfleet_api.roboflow.inference_pipelines.consumer_store import Records
from streamfleet_api.roboflow.inference_pipelines.result_buffer import WAIT, Entry, Result, Ring, Rings
from streamfleet_api.roboflow.inference_pipelines.results import Consumed, Plan, consumed
from streamfleet_api.roboflow.inference_pipelines.snapshots import Snapshots
from streamfleet_core.protocol.data_plane import DataHeader
from streamfleet_core.protocol.requests import PipelineView

logger = logging.getLogger(__name__)

IDLE = (
    60.0  # seconds without a request after which a ring ends, unless its pipeline was created for a consumer
)
_SWEEP = 0.5  # seconds

Terminate = Callable[[str], Awaitable[object]]


@dataclass(slots=True, kw_only=True)
class _Consumer:
    plan: Plan
    remembered: bool  # stored in a file, as long as its pipeline exists
    settled: bool  # the broker has confirmed that its pipeline exists
    asked_at: float  # time of the last request, or of its creation (monotonic seconds)
    listening: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    is_listening: bool = False  # it has a ring
    ending: bool = False  # its pipeline is being terminated, and may have gone

    def is_late(self, now: float) -> bool:
        """Whether its pipeline must be terminated for lack of requests."""
        return self.settled and self.plan.timeout is not None and now - self.asked_at > self.plan.timeout

    def is_idle(self, now: float) -> bool:
        return not self.plan.kept and now - self.asked_at > IDLE


class Consumers:
    """The rings of this api. One event loop uses it."""

    def __init__(
        self,
        predictions: Predictions,
        snapshots: Snapshots,
        pipeline_cache: PipelineCache,
        records: Records,
        *,
        terminate: Terminate,
    ) -> None:
        self._predictions = predictions
        self._snapshots = snapshots
        self._records = records
        self._terminate = terminate
        self._consumers: dict[str, _Consumer] = {}
        self._rings = Rings()  # of those who listen
        self._gone: list[str] = []  # pipelines that are still remembered
        self._work = Background("consumers", self._sweep)
        pipeline_cache.on_refresh(self._retain)

    def knows(self, pipeline_id: str) -> bool:
        """Whether this pipeline has a ring. If so, it exists and the broker need not be asked."""
        consumer = self._consumers.get(pipeline_id)
        return consumer is not None and not consumer.ending

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Restore the stored consumers, and store them for the next start of the api."""
        for pipeline_id, plan in (await asyncio.to_thread(self._records.load)).items():
            self._begin(pipeline_id, plan, remembered=True, settled=True)
        self._work.start()
        try:
            yield
        finally:
            await self._work.close()
            for pipeline_id in list(self._consumers):
                self._end(pipeline_id)

    def expect(self, pipeline_id: str, plan: Plan) -> None:
        """Start a ring for a pipeline that is about to be created. Call `settle` or `forget` afterwards."""
        self._begin(pipeline_id, plan, remembered=True, settled=False)

    async def settle(self, pipeline_id: str) -> None:
        """Store the consumer: its pipeline was created."""
        consumer = self._consumers[pipeline_id]
        consumer.settled = True
        await asyncio.to_thread(self._records.save, pipeline_id, consumer.plan)

    def begin(self, pipeline_id: str, plan: Plan) -> None:
        """Start a ring for a pipeline that was created elsewhere, unless it has one."""
        if pipeline_id not in self._consumers:
            self._begin(pipeline_id, plan, remembered=False, settled=True)

    async def consume(self, pipeline_id: str, *, excluded: Collection[str]) -> Consumed:
        """Take the oldest entry of a ring. Each call keeps the pipeline alive, even if no entry waits."""
        consumer = self._consumers[pipeline_id]
        consumer.asked_at = time.monotonic()
        self._listen(pipeline_id, consumer)
        taken = self._rings.pop(pipeline_id, consumer.asked_at)
        if taken is None:
            return Consumed()
        entry, dropped = taken
        pictures = await self._pictures(pipeline_id, entry) if consumer.plan.needs_pictures(excluded) else {}
        return consumed(consumer.plan, entry, dropped, excluded=excluded, pictures=pictures)

    async def _pictures(self, pipeline_id: str, entry: Entry) -> dict[int, bytes]:
        """The newest preview of each source that has a result in the entry."""
        sources = [result.source for result in entry if result is not None]
        newest = await asyncio.gather(*(self._snapshots.newest(pipeline_id, source) for source in sources))
        return {source: jpeg for source, jpeg in zip(sources, newest, strict=True) if jpeg is not None}

    async def forget(self, pipeline_id: str) -> None:
        """Remove the consumer of a pipeline that is gone."""
        if pipeline_id in self._consumers and self._end(pipeline_id).remembered:
            await asyncio.to_thread(self._records.forget, pipeline_id)

    def _begin(self, pipeline_id: str, plan: Plan, *, remembered: bool, settled: bool) -> None:
        consumer = _Consumer(plan=plan, remembered=remembered, settled=settled, asked_at=time.monotonic())
        self._consumers[pipeline_id] = consumer
        if plan.kept:
            self._listen(pipeline_id, consumer)

    def _end(self, pipeline_id: str) -> _Consumer:
        consumer = self._consumers.pop(pipeline_id)
        self._stop_listening(pipeline_id, consumer)
        self._snapshots.close(pipeline_id)
        return consumer

    def _listen(self, pipeline_id: str, consumer: _Consumer) -> None:
        if consumer.is_listening:
            return

        def take(header: DataHeader, body: bytes) -> None:
            result = Result(header.source, header.key, header.captured_wall_ns / 1e9, body)
            self._rings.push(pipeline_id, result, time.monotonic())

        plan = consumer.plan
        wait = WAIT if plan.wait is None else plan.wait
        self._rings.begin(pipeline_id, Ring(plan.sources, size=plan.size, wait=wait))
        consumer.listening.enter_context(self._predictions.tapped(pipeline_id, take))
        consumer.is_listening = True

    def _stop_listening(self, pipeline_id: str, consumer: _Consumer) -> None:
        """Stop receiving results, and drop those that wait."""
        consumer.listening.close()
        consumer.is_listening = False
        self._rings.end(pipeline_id)

    def _retain(self, pipelines: Mapping[str, PipelineView]) -> None:
        """End the rings of pipelines that the broker no longer lists."""
        gone = [each for each, one in self._consumers.items() if one.settled and each not in pipelines]
        for pipeline_id in gone:
            if self._end(pipeline_id).remembered:
                self._gone.append(pipeline_id)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            while self._gone:
                await asyncio.to_thread(self._records.forget, self._gone.pop())
            now = time.monotonic()
            self._snapshots.close_idle(now)
            for pipeline_id, consumer in list(self._consumers.items()):
                if consumer.is_listening and consumer.is_idle(now):
                    self._rest(pipeline_id, consumer)
            late = [each for each, consumer in self._consumers.items() if consumer.is_late(now)]
            await asyncio.gather(*(self._terminate_unconsumed(pipeline_id) for pipeline_id in late))

    def _rest(self, pipeline_id: str, consumer: _Consumer) -> None:
        if consumer.remembered:
            self._stop_listening(pipeline_id, consumer)
        else:
            self._end(pipeline_id)

    async def _terminate_unconsumed(self, pipeline_id: str) -> None:
        """Terminate a pipeline without a consumer. If that fails, the next sweep tries again."""
        logger.info("%s: its results were not consumed in time, terminating it", pipeline_id)
        consumer = self._consumers[pipeline_id]
        consumer.ending = True
        try:
            await self._terminate(pipeline_id)
        except Failure as exc:
            logger.info("%s: already gone: %s", pipeline_id, exc)
        except (BrokerClientError, Unconfirmed) as exc:
            logger.warning("%s: cannot be terminated now: %s", pipeline_id, exc)
            consumer.ending = False
            return
        await self.forget(pipeline_id)
