"""A broker on a full disk starts and answers, and refuses what it cannot keep until there is room."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_core.protocol.messages import Error
from streamfleet_core.protocol.requests import (
    CreatePipeline,
    FleetView,
    GetFleet,
    ListPipelines,
    PipelineView,
)
from tests.broker.test_main import SPEC, operator, running
from tests.fakes.broker_clients import Operator, Sockets
from tests.fakes.disks import fill_up, small_disk
from tests.fakes.patience import PATIENCE


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk() as folder:
        yield folder


async def names(asking: Operator) -> list[str]:
    return [view.pipeline_id for view in await asking.get(ListPipelines(), tuple[PipelineView, ...])]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_full_disk_stops_writes_and_nothing_else(disk: Path, number: int) -> None:
    data = disk / "b"
    sockets = Sockets()
    with running(data) as process:
        asking = operator(sockets, data)
        await asking.get(CreatePipeline(pipeline_id="before", spec=SPEC), PipelineView)
        first = (await asking.get(GetFleet(), FleetView)).epoch
        process.send_signal(number)
        process.wait(PATIENCE)
    filler = fill_up(disk)

    for _ in range(2):
        with running(data, expected="cannot write: database or disk is full"):
            asking = operator(sockets, data)
            refused = await asking.ask(CreatePipeline(pipeline_id="refused", spec=SPEC))
            assert isinstance(refused, Error)
            assert refused.code == "store_down"
            assert await names(asking) == ["before"]
            assert (await asking.get(GetFleet(), FleetView)).epoch > first
    with running(data, expected="cannot write"):
        asking = operator(sockets, data)
        filler.unlink()
        await asking.get(CreatePipeline(pipeline_id="after", spec=SPEC), PipelineView)
        used = (await asking.get(GetFleet(), FleetView)).epoch
    with running(data):
        asking = operator(sockets, data)
        assert await names(asking) == ["before", "after"]
        assert (await asking.get(GetFleet(), FleetView)).epoch > used
    sockets.close()
