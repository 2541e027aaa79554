"""What pipelines cost and where they would go: over HTTP, in the clients and on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from streamfleet import AsyncClient, Client, Connection
from streamfleet.errors import Invalid
from streamfleet_core.protocol.costs import BoardCost, DeviceLoad, Need
from streamfleet_core.protocol.requests import (
    Move,
    Plan,
    Planned,
    PlanPipelines,
    Rebalance,
    RebalanceDevices,
    Utilisation,
)
from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Api, Command
from tests.fakes.broker import Peer, device
from tests.fakes.costs import COST

BOARD = "Orin Nano"
LOAD = DeviceLoad(
    engine=0.5, cores=1.25, all_cores=4.0, memory=1 << 30, all_memory=4 << 30, measured=3, guessed=1
)
REASON = "unschedulable: needs 0.31 of an engine, the best device (edge-1) has 0.12; one more …"
PLAN = Plan(
    (
        Planned(
            pipeline_id="door",
            device="edge-1",
            need=Need(engine=0.31, cores=0.4, memory=1 << 20, is_measured=True),
        ),
        Planned(pipeline_id="plan-2", reason=REASON),
    ),
    {"edge-1": LOAD},
)
WANTED: list[dict[str, Any]] = [
    {"id": "door", "model": "parts/1", "sources": ["rtsp://cam/1"], "max_fps": 5, "priority": "high"},
    {"model": "parts/1", "sources": [0], "selector": {"site": "x"}, "on_disconnect": "continue"},
]


@pytest.fixture(autouse=True)
def known(peer: Peer) -> Iterator[None]:
    peer.models["parts/1"] = ModelRef("parts/1", COST.digest)
    peer.devices["edge-1"] = device("edge-1", load=LOAD)
    peer.plan, peer.costs = PLAN, [BoardCost(BOARD, COST)]
    yield
    peer.plan, peer.costs = Plan((), {}), []


def connection_to(api: Api) -> Connection:
    return Connection(url=api.url, data_dir=api.folder)


def test_every_key_of_a_planned_pipeline_reaches_the_broker_and_its_answer_comes_back(
    http: httpx.Client, peer: Peer
) -> None:
    answer = http.post("/v2/plan", json={"pipelines": WANTED})

    (asked,) = [each for each in peer.asked if isinstance(each, PlanPipelines)]
    first, second = asked.pipelines
    assert (first.pipeline_id, first.spec.max_fps, first.spec.priority) == ("door", 5.0, "high")
    assert (second.pipeline_id, second.selector, second.on_disconnect) == (
        "plan-2",
        {"site": "x"},
        "continue",
    )
    assert {each.spec.model.digest for each in asked.pipelines} == {COST.digest}
    assert answer.status_code == 200
    need = {"engine": 0.31, "cores": 0.4, "memory": 1 << 20, "is_measured": True}
    assert answer.json()["pipelines"] == [
        {"pipeline_id": "door", "device": "edge-1", "reason": "", "need": need},
        {"pipeline_id": "plan-2", "device": None, "reason": REASON, "need": None},
    ]
    assert answer.json()["devices"]["edge-1"]["all_cores"] == 4.0


def test_an_error_in_a_planned_pipeline_names_its_place(http: httpx.Client) -> None:
    answer = http.post(
        "/v2/plan", json={"pipelines": [WANTED[0], {**WANTED[0], "id": "x", "model": "none/1"}]}
    )
    none = http.post("/v2/plan", json={"pipelines": []})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "pipelines", 1, "model"]
    assert none.status_code == 422


async def test_both_clients_plan(api: Api) -> None:
    with Client(connection_to(api)) as client:
        plan = client.plan_pipelines({"door": {"model": "parts/1", "sources": ["rtsp://cam/1"]}})
        with pytest.raises(Invalid):
            client.plan_pipelines({"door": {"model": "none/1", "sources": [0]}})
    async with AsyncClient(connection_to(api)) as client:
        again = await client.plan_pipelines({"door": {"model": "parts/1", "sources": ["rtsp://cam/1"]}})

    assert plan == again
    assert [each.device for each in plan.pipelines] == ["edge-1", None]
    assert plan.pipelines[0].need is not None
    assert (plan.pipelines[0].need.cores, plan.devices["edge-1"].guessed) == (0.4, 1)


async def test_both_clients_rebalance(api: Api, peer: Peer) -> None:
    peer.rebalance = Rebalance((Move("door", "a", "b"),), {"a": Utilisation(0.9, 0.5)})
    with Client(connection_to(api)) as client:
        found = client.rebalance_devices(dry_run=True)
    async with AsyncClient(connection_to(api)) as client:
        await client.rebalance_devices()

    assert [(each.pipeline_id, each.source, each.target) for each in found.moves] == [("door", "a", "b")]
    assert (found.devices["a"].before, found.devices["a"].after) == (0.9, 0.5)
    asked = [each.dry_run for each in peer.asked if isinstance(each, RebalanceDevices)]
    assert asked == [True, False]


def test_costs_and_demand_are_shown(http: httpx.Client, run: Command) -> None:
    model = http.get("/v2/models/parts/1").json()
    demand = http.get("/v2/devices/edge-1").json()["demand"]
    card = run("models", "show", "parts/1").stdout
    shown = run("devices", "show", "edge-1").stdout

    assert model["costs"][0]["board"] == BOARD
    assert model["costs"][0]["cost"]["inference"] == 0.05
    assert (demand["engine"], demand["guessed"]) == (0.5, 1)
    assert BOARD in card
    assert "1280x720 software: 60 ms of a core for a frame, 1 ms for one that is only read" in card
    assert "50% of its engine, 1.25 of 4 cores" in shown
    assert "(1 pipeline is not measured yet)" in shown
