"""The last predictions of a large fleet: only of the pipelines that somebody asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvloop
import zmq
import zmq.asyncio

from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.predictions import MANY, Predictions
from streamfleet_api.feeds.subscribers import SubscriberRegistry
from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic
from streamfleet_core.protocol.requests import PipelineView
from tests.fakes.broker import pipeline
from tests.fakes.patience import PATIENCE

BODY = msgspec.msgpack.encode(
    {"image": {}, "predictions": [], "inference_metadata": {"pipeline_id": "cam-7", "source_id": 0}}
)


class ListOfMany:
    """A broker with so many pipelines."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def pipelines(self) -> tuple[PipelineView, ...]:
        """All of them."""
        return tuple(pipeline(f"cam-{number}") for number in range(self.count))


class Relay:
    """What the api has subscribed at the relay, and a way to publish."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.bind("inproc://relay")
        self.topics: set[bytes] = set()

    async def until(self, holds: Callable[[set[bytes]], bool]) -> None:
        """Wait until the subscriptions are as they should be."""
        while not holds(self.topics):
            (message,) = await asyncio.wait_for(self.socket.recv_multipart(), PATIENCE)
            (self.topics.add if message[0] else self.topics.discard)(message[1:])

    async def repeat(self, seq: int) -> None:
        """A device repeats its last prediction."""
        header = DataHeader(kind=Kind.LAST, gen=1, inc=0, seq=seq).pack()
        await self.socket.send_multipart([pipeline_topic(Kind.LAST, "cam-7"), header, BODY])


@asynccontextmanager
async def feed(count: int) -> AsyncIterator[tuple[Predictions, Relay, PipelineCache, ListOfMany]]:
    context = zmq.asyncio.Context()
    relay, broker = Relay(context), ListOfMany(count)
    cache = PipelineCache(broker)  # type: ignore[arg-type]
    predictions = Predictions(context, "inproc://relay", None, SubscriberRegistry(stuck=10.0), cache)
    await predictions.start()
    try:
        await cache.refresh()
        yield predictions, relay, cache, broker
    finally:
        await predictions.close()
        context.destroy(linger=0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody asks for any more is soon unsubscribed."""
    monkeypatch.setattr("streamfleet_api.feeds.predictions._KEEP_ON", 0.01)


def ran(body: Callable[[], Any]) -> None:
    uvloop.run(body())


def test_of_a_small_fleet_all_last_predictions_arrive() -> None:
    async def body() -> None:
        async with feed(3) as (predictions, relay, _, _):
            await relay.until(lambda topics: b"v1/last/" in topics)
            await relay.repeat(4)
            while await predictions.last("cam-7", None) is None:
                await asyncio.sleep(0)

    ran(body)


def test_of_a_large_fleet_those_arrive_that_somebody_asks_for() -> None:
    async def body() -> None:
        async with feed(MANY + 1) as (predictions, relay, cache, broker):
            await relay.until(lambda topics: b"v1/last/" in topics)
            await relay.until(lambda topics: b"v1/last/" not in topics)

            asked = asyncio.create_task(predictions.last("cam-7", None))
            await relay.until(lambda topics: b"v1/last/cam-7/" in topics)
            await relay.repeat(4)
            first = await asked
            assert first is not None
            assert first.id == "1-0-4"

            broker.count = 3
            await cache.refresh()
            await relay.until(lambda topics: b"v1/last/" in topics)

    ran(body)


def test_a_pipeline_that_is_silent_has_none() -> None:
    async def body() -> None:
        async with feed(MANY + 1) as (predictions, relay, _, _):
            await relay.until(lambda topics: b"v1/last/" in topics)
            await relay.until(lambda topics: b"v1/last/" not in topics)

            assert await predictions.last("cam-7", None) is None

    ran(body)
