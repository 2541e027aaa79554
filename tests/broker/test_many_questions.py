"""An api with many clients asks many questions at once over one connection."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
import zmq.asyncio

from streamfleet_api import broker_client
from streamfleet_api.broker_client import BrokerClient
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.storage.sqlite_store import SqliteStore
from streamfleet_core.protocol.requests import FleetView, GetFleet, Put, PutPipeline
from tests.fakes.broker_clients import serving
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import spec

QUESTIONS = 500  # at once
CHANGES = 100


async def test_every_one_of_many_questions_at_once_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_client, "CONNECT_TIMEOUT", PATIENCE)
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    context = zmq.asyncio.Context()
    try:
        async with serving(folder):
            client = BrokerClient(context, f"ipc://{folder}/operators.ipc")
            await client.start()
            try:
                asked = [client.ask(GetFleet(), FleetView, timeout=PATIENCE) for _ in range(QUESTIONS)]
                views = await asyncio.gather(*asked)
            finally:
                await client.close()
    finally:
        context.destroy(linger=0)
        shutil.rmtree(folder)

    assert len(views) == QUESTIONS


async def test_changes_of_many_at_once_are_all_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_client, "CONNECT_TIMEOUT", PATIENCE)
    names = [f"door-{number}" for number in range(CHANGES)]
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    context = zmq.asyncio.Context()
    try:
        async with serving(folder):
            client = BrokerClient(context, f"ipc://{folder}/operators.ipc")
            await client.start()
            try:
                asked = (PutPipeline(pipeline_id=name, spec=spec("rtsp://h/door")) for name in names)
                put = await asyncio.gather(*(client.ask(each, Put, timeout=PATIENCE) for each in asked))
            finally:
                await client.close()
        store = SqliteStore(folder)
        store.close()
    finally:
        context.destroy(linger=0)
        shutil.rmtree(folder)

    assert [each.created for each in put] == [True] * CHANGES
    stored = {record.pipeline_id for record in store.records if isinstance(record, PipelineRecord)}
    assert stored == set(names)
