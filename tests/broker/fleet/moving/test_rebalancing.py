"""Rebalancing: which pipelines move away from devices with much load, and how."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.fleet.moving.rebalancing import MAX_MOVES, WORTH
from streamfleet_broker.fleet.records import ModelRecord
from streamfleet_core.protocol.costs import BoardCost
from streamfleet_core.protocol.requests import (
    CordonDevice,
    CreatePipeline,
    DrainDevice,
    ListPipelines,
    Move,
    Rebalance,
    RebalanceDevices,
    RestartPipeline,
    Utilisation,
)
from streamfleet_core.protocol.values import ObservedState, PipelineSpec
from tests.broker.fleet.moving.test_drains import get_ready
from tests.broker.fleet.test_capacity import BOARD, COST, DIGEST, PACED, RESOURCES
from tests.fakes.scripted_fleet import CAMERA, CONFIG, FILE, ScriptedFleet, devices, scripted_fleet

NAMES = ("a", "b", "c")


def fleet_of_one(*, spare: int = 0) -> ScriptedFleet:
    """A fleet with a ready, and with b and c enrolled. The model is measured."""
    record = ModelRecord(CAMERA.model.id, DIGEST, (BoardCost(BOARD, COST),))
    fleet = scripted_fleet(records=[*devices(*NAMES), record], config=replace(CONFIG, spare=spare))
    come(fleet, "a")
    return fleet


def come(fleet: ScriptedFleet, *names: str) -> None:
    for name in names:
        fleet.hello(name, capacity=8, resources=RESOURCES)
        fleet.heartbeat(name)


def loaded(count: int = 6, spec: PipelineSpec = PACED) -> ScriptedFleet:
    """All pipelines are on a, and b has come after them."""
    fleet = fleet_of_one()
    for number in range(count):
        fleet.create(f"cam-{number}", spec)
    fleet.obey("a")
    come(fleet, "b")
    return fleet


def planned(fleet: ScriptedFleet) -> Rebalance:
    found = fleet.reply(RebalanceDevices(dry_run=True))
    assert isinstance(found, Rebalance)
    return found


def where(fleet: ScriptedFleet) -> dict[str, str | None]:
    return {view.pipeline_id: view.device for view in fleet.reply(ListPipelines())}


def carry_out(fleet: ScriptedFleet, rounds: int = 8) -> None:
    """Devices do what they are told, until all has moved."""
    alive = [*fleet.devices]
    for _ in range(rounds):
        for name in alive:
            get_ready(fleet, name)
        fleet.pass_time(0.5)


def test_a_plan_halves_the_load_with_as_few_moves_as_possible_and_changes_nothing() -> None:
    fleet = loaded()
    before = where(fleet)

    found = planned(fleet)
    fleet.pass_time(1, alive=["a", "b"])

    assert found.moves == tuple(Move(f"cam-{number}", "a", "b") for number in (5, 4, 3))
    assert found.devices == {"a": Utilisation(0.975, 0.4875), "b": Utilisation(0.0, 0.4875)}
    assert where(fleet) == before
    assert fleet.assignments("b") == ()


def test_the_moves_begin_a_few_at_a_time_and_each_waits_until_the_other_device_is_ready() -> None:
    fleet = loaded(12, replace(CAMERA, max_fps=2.0))
    found = fleet.reply(RebalanceDevices())

    begun = [each.pipeline_id for each in fleet.assignments("b")]
    still = [each.desired_status for each in fleet.assignments("a")]
    carry_out(fleet, rounds=12)

    assert len(found.moves) == 6
    assert len(begun) == MAX_MOVES
    assert still == ["run"] * 12
    assert sorted(where(fleet).values(), key=str) == ["a"] * 6 + ["b"] * 6
    assert planned(fleet) == Rebalance((), {})


@pytest.mark.parametrize("kind", ["a file", "named", "continues", "failed"])
def test_what_would_be_interrupted_or_never_moves_stays(kind: str) -> None:
    fleet = fleet_of_one()
    for number in range(4):
        fleet.reply(
            CreatePipeline(
                pipeline_id=f"cam-{number}",
                spec=replace(FILE, max_fps=5.0) if kind == "a file" else PACED,
                device="a" if kind == "named" else None,
                on_disconnect="continue" if kind == "continues" else None,
            )
        )
    fleet.obey("a", state=ObservedState.FAILED if kind == "failed" else None)
    come(fleet, "b")

    assert planned(fleet).moves == ()


def test_nothing_moves_to_or_from_a_cordoned_device() -> None:
    fleet = loaded()
    fleet.ask(CordonDevice("b"))
    to_cordoned = planned(fleet)
    fleet.ask(CordonDevice("b", cordoned=False))
    fleet.ask(CordonDevice("a"))

    assert to_cordoned.moves == planned(fleet).moves == ()


def test_a_device_from_which_nothing_can_move_does_not_keep_others_from_it() -> None:
    fleet = fleet_of_one()
    for number in range(6):
        fleet.create(f"own-{number}", PACED, "a")
    come(fleet, "b")
    for number in range(4):
        fleet.create(f"cam-{number}", PACED)
    come(fleet, "c")

    moves = planned(fleet).moves

    assert {(move.source, move.target) for move in moves} == {("b", "c")}
    assert len(moves) == 2


def test_the_lowest_priority_moves_first() -> None:
    fleet = fleet_of_one()
    for number, priority in enumerate(("normal", "low", "high", "low", "high", "normal")):
        fleet.create(f"cam-{number}", replace(PACED, priority=priority))  # type: ignore[arg-type]
    fleet.obey("a")
    come(fleet, "b")

    assert [move.pipeline_id for move in planned(fleet).moves] == ["cam-3", "cam-1", "cam-5"]


def test_the_spare_room_is_kept() -> None:
    """Two and two: with another move from the last device, the loss of one could not be endured any more."""
    fleet = fleet_of_one(spare=1)
    come(fleet, "b")
    for number in range(6):
        fleet.create(f"cam-{number}", PACED)
    fleet.obey()
    come(fleet, "c")

    found = planned(fleet)
    fleet.reply(RebalanceDevices())
    carry_out(fleet)
    fleet.pass_time(12, alive=["b", "c"])
    fleet.pass_time(1, alive=["b", "c"])

    assert len(found.moves) == 2
    assert set(where(fleet).values()) == {"b", "c"}


def test_a_move_that_is_not_possible_any_more_is_left_out() -> None:
    fleet = loaded(12, replace(CAMERA, max_fps=2.0))
    found = fleet.reply(RebalanceDevices())

    fleet.ask(DrainDevice("b"))
    carry_out(fleet, rounds=12)

    assert found.moves
    assert set(where(fleet).values()) == {"a"}


def test_a_restart_or_another_plan_ends_no_move_badly() -> None:
    fleet = loaded()
    fleet.reply(RebalanceDevices())
    fleet.ask(RestartPipeline("cam-5"))
    fleet.reply(RebalanceDevices())

    carry_out(fleet, rounds=16)

    assert sorted(where(fleet).values(), key=str) == ["a"] * 3 + ["b"] * 3


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0, 10.0]), max_size=20), st.integers(0, 2))
def test_no_plan_makes_the_highest_load_higher_and_each_move_is_worth_it(
    rates: list[float], more: int
) -> None:
    fleet = fleet_of_one()
    for number, rate in enumerate(rates):
        fleet.create(f"cam-{number}", replace(CAMERA, max_fps=rate))
    come(fleet, *NAMES[1 : 1 + more])

    found = planned(fleet)

    assert len({move.pipeline_id for move in found.moves}) == len(found.moves)
    if found.moves:
        before = max(each.before for each in found.devices.values())
        after = max(each.after for each in found.devices.values())
        assert after <= before - WORTH + 1e-3
        assert after <= 1.0
