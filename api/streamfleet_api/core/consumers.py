"""The results of pipelines whose consumers ask for them one by one: a ring each, and when nobody asks.

Who is made for consumers has a ring from the beginning, and again after a restart of the api. Of every other
pipeline results are kept from the first question on, until nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

from streamfleet_api.background import Background
from streamfleet_api.core.records import Records
from streamfleet_api.core.results import Consumed, Plan, consumed
from streamfleet_api.core.ring import WAIT, Entry, Result, Ring, Rings
from streamfleet_api.core.views import Views
from streamfleet_api.errors import Failure, Unconfirmed
from streamfleet_api.link import LinkError
from streamfleet_api.predictions import Predictions
from streamfleet_api.roster import Roster
from streamfleet_broker.protocol.data import DataHeader
from streamfleet_broker.protocol.requests import PipelineView

logger = logging.getLogger(__name__)

IDLE = 60.0  # seconds without a question after which nothing is kept of a pipeline that is not made for it
_SWEEP = 0.5  # seconds

Terminate = Callable[[str], Awaitable[object]]


@dataclass(slots=True)
class _Consumer:
    plan: Plan
    remembered: bool  # in a file, for as long as its pipeline is there
    settled: bool  # its pipeline is there: the broker said so
    asked_at: float  # monotonic seconds, at first when it began
    listening: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    listens: bool = False  # it has a ring
    ending: bool = False  # its pipeline is being terminated, and may have gone

    def is_late(self, now: float) -> bool:
        """Must its pipeline end, because nobody asks?"""
        return self.settled and self.plan.timeout is not None and now - self.asked_at > self.plan.timeout

    def is_idle(self, now: float) -> bool:
        return not self.plan.kept and now - self.asked_at > IDLE


class Consumers:
    """The rings of this api. One event loop uses it."""

    def __init__(
        self,
        predictions: Predictions,
        views: Views,
        roster: Roster,
        records: Records,
        *,
        terminate: Terminate,
    ) -> None:
        self._predictions = predictions
        self._views = views
        self._records = records
        self._terminate = terminate
        self._consumers: dict[str, _Consumer] = {}
        self._rings = Rings()  # of those who listen
        self._gone: list[str] = []  # pipelines that are still remembered
        self._work = Background("consumers", self._sweep)
        roster.when_seen(self._retain)

    def knows(self, pipeline_id: str) -> bool:
        """Is there a ring of this pipeline, so that nobody need be asked whether there is the pipeline?"""
        consumer = self._consumers.get(pipeline_id)
        return consumer is not None and not consumer.ending

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Begin where another run of this api has ended; what is remembered stays."""
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
        """The ring of a pipeline that is about to be made: call `settle` or `forget` after it."""
        self._begin(pipeline_id, plan, remembered=True, settled=False)

    async def settle(self, pipeline_id: str) -> None:
        """The pipeline is there."""
        consumer = self._consumers[pipeline_id]
        consumer.settled = True
        await asyncio.to_thread(self._records.save, pipeline_id, consumer.plan)

    def begin(self, pipeline_id: str, plan: Plan) -> None:
        """The ring of a pipeline that was made elsewhere, unless it has one."""
        if pipeline_id not in self._consumers:
            self._begin(pipeline_id, plan, remembered=False, settled=True)

    async def consume(self, pipeline_id: str, *, excluded: Collection[str]) -> Consumed:
        """The oldest entry of a ring that there is. To ask is a sign of life, also when nothing is there."""
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
        """The newest picture of each source that gave a result."""
        sources = [result.source for result in entry if result is not None]
        newest = await asyncio.gather(*(self._views.newest(pipeline_id, source) for source in sources))
        return {source: jpeg for source, jpeg in zip(sources, newest, strict=True) if jpeg is not None}

    async def forget(self, pipeline_id: str) -> None:
        """The pipeline has gone."""
        if pipeline_id in self._consumers and self._end(pipeline_id).remembered:
            await asyncio.to_thread(self._records.forget, pipeline_id)

    def _begin(self, pipeline_id: str, plan: Plan, *, remembered: bool, settled: bool) -> None:
        consumer = _Consumer(plan, remembered, settled, time.monotonic())
        self._consumers[pipeline_id] = consumer
        if plan.kept:
            self._listen(pipeline_id, consumer)

    def _end(self, pipeline_id: str) -> _Consumer:
        consumer = self._consumers.pop(pipeline_id)
        self._be_deaf(pipeline_id, consumer)
        self._views.end(pipeline_id)
        return consumer

    def _listen(self, pipeline_id: str, consumer: _Consumer) -> None:
        if consumer.listens:
            return

        def take(header: DataHeader, body: bytes) -> None:
            result = Result(header.source, header.key, header.captured_wall_ns / 1e9, body)
            self._rings.push(pipeline_id, result, time.monotonic())

        plan = consumer.plan
        wait = WAIT if plan.wait is None else plan.wait
        self._rings.begin(pipeline_id, Ring(plan.sources, size=plan.size, wait=wait))
        consumer.listening.enter_context(self._predictions.tapped(pipeline_id, take))
        consumer.listens = True

    def _be_deaf(self, pipeline_id: str, consumer: _Consumer) -> None:
        """Take no more results, and let go of those that wait."""
        consumer.listening.close()
        consumer.listens = False
        self._rings.end(pipeline_id)

    def _retain(self, pipelines: Mapping[str, PipelineView]) -> None:
        """Pipelines that the broker does not list have gone, whoever ended them."""
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
            self._views.rest(now)
            for pipeline_id, consumer in list(self._consumers.items()):
                if consumer.listens and consumer.is_idle(now):
                    self._rest(pipeline_id, consumer)
            late = [each for each, consumer in self._consumers.items() if consumer.is_late(now)]
            await asyncio.gather(*(self._give_up(pipeline_id) for pipeline_id in late))

    def _rest(self, pipeline_id: str, consumer: _Consumer) -> None:
        if consumer.remembered:
            self._be_deaf(pipeline_id, consumer)
        else:
            self._end(pipeline_id)

    async def _give_up(self, pipeline_id: str) -> None:
        """Terminate a pipeline that nobody consumes; when that fails, at the next look again."""
        logger.info("%s: nobody has consumed its results for long enough: it is terminated", pipeline_id)
        consumer = self._consumers[pipeline_id]
        consumer.ending = True
        try:
            await self._terminate(pipeline_id)
        except Failure as exc:
            logger.info("%s: it has gone already: %s", pipeline_id, exc)
        except (LinkError, Unconfirmed) as exc:
            logger.warning("%s: cannot be terminated now: %s", pipeline_id, exc)
            consumer.ending = False
            return
        await self.forget(pipeline_id)
