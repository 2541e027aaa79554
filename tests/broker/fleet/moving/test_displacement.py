"""Pipelines that make room for others of a higher priority."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_broker.fleet.moving.displacement import MAX_VICTIMS
from streamfleet_broker.fleet.state import FleetConfig
from streamfleet_core.protocol.requests import CreatePipeline, ListPipelines
from streamfleet_core.protocol.values import ObservedState, PipelineSpec, Priority
from tests.broker.fleet.test_capacity import PACED, filled, joined
from tests.fakes.scripted_fleet import CAMERA, CONFIG, FILE, ScriptedFleet, devices, scripted_fleet

AFTER = CONFIG.displace_after or 0.0


def of(priority: Priority, spec: PipelineSpec = CAMERA) -> PipelineSpec:
    return replace(spec, priority=priority)


def full(*priorities: Priority, config: FleetConfig = CONFIG) -> ScriptedFleet:
    """A device a that is full of pipelines of these priorities: `cam-0`, `cam-1`, …"""
    fleet = scripted_fleet(records=devices("a", "b"), config=config)
    fleet.join("a", capacity=len(priorities))
    for number, priority in enumerate(priorities):
        fleet.create(f"cam-{number}", of(priority))
    fleet.obey("a")
    return fleet


def pass_time(fleet: ScriptedFleet, seconds: float) -> None:
    """Time passes, and all devices that are there do what they are told."""
    for _ in range(round(2 * seconds)):
        fleet.pass_time(0.5, alive=[*fleet.devices])
        fleet.obey()


def running(fleet: ScriptedFleet) -> set[str]:
    return {view.pipeline_id for view in fleet.reply(ListPipelines()) if view.status == "running"}


def test_a_higher_priority_that_has_waited_takes_the_place_of_the_lowest_and_youngest() -> None:
    fleet = full("normal", "low", "low")
    fleet.create("door", of("high"))

    pass_time(fleet, AFTER - 1)
    before = running(fleet)
    pass_time(fleet, 2)

    assert before == {"cam-0", "cam-1", "cam-2"}
    assert running(fleet) == {"cam-0", "cam-1", "door"}
    view = fleet.view("cam-2")
    assert (view.status, view.device) == ("pending", None)
    assert view.reason == "displaced by door (high) on a; no device has room: a runs 3 of 3"


@pytest.mark.parametrize(("priority", "there"), [("normal", "normal"), ("low", "low"), ("low", "high")])
def test_an_equal_or_lower_priority_waits(priority: Priority, there: Priority) -> None:
    fleet = full(there, there)
    fleet.create("door", of(priority))

    pass_time(fleet, 3 * AFTER)

    assert running(fleet) == {"cam-0", "cam-1"}


def test_what_was_displaced_goes_to_a_device_with_room_and_says_so_no_more() -> None:
    fleet = full("low")
    fleet.create("door", of("high"))
    pass_time(fleet, AFTER + 2)
    waits = fleet.view("cam-0").reason

    fleet.join("b")
    pass_time(fleet, 2)

    assert waits.startswith("displaced by door (high) on a")
    assert (fleet.view("cam-0").device, fleet.view("cam-0").reason) == ("b", "")
    assert running(fleet) == {"cam-0", "door"}


def test_what_never_moves_is_not_displaced() -> None:
    fleet = scripted_fleet("a")
    fleet.join("a", capacity=2)
    fleet.create("film", of("low", FILE))
    fleet.create("named", of("low"), "a")
    fleet.create("door", of("high"))

    pass_time(fleet, 3 * AFTER)

    assert running(fleet) == {"film", "named"}


def test_nothing_is_displaced_by_what_would_not_fit_all_the_same() -> None:
    fleet = full("low")
    fleet.reply(CreatePipeline(pipeline_id="door", spec=of("high"), selector={"site": "elsewhere"}))

    pass_time(fleet, 3 * AFTER)

    assert running(fleet) == {"cam-0"}


def test_what_has_failed_takes_no_room_and_is_left_alone() -> None:
    fleet = full("low", "low")
    fleet.obey("a", state=ObservedState.FAILED)

    fleet.create("door", of("high"))

    assert fleet.view("door").device == "a"
    assert fleet.view("cam-0").status == fleet.view("cam-1").status == "failed"


def test_one_pipeline_displaces_at_a_tick_and_few_at_once() -> None:
    fleet = full("low", "low", "low", "low")
    for number in range(2):
        fleet.create(f"door-{number}", of("high"))

    fleet.pass_time(AFTER + 0.5, alive=["a"])
    first = sum(view.device is None for view in fleet.reply(ListPipelines()))
    pass_time(fleet, 2)

    assert first == 2  # one that was displaced, and one that still waits
    assert running(fleet) == {"cam-0", "cam-1", "door-0", "door-1"}


def test_many_small_ones_do_not_make_room_for_one_large_one() -> None:
    fleet = joined("a")
    there = filled(fleet, replace(PACED, priority="low"))
    fleet.change(f"cam-{len(there)}", "stop")
    fleet.obey()
    fleet.create("door", replace(CAMERA, max_fps=100.0, priority="high"))  # needs the whole device

    pass_time(fleet, 3 * AFTER)

    assert len(there) > MAX_VICTIMS
    assert running(fleet) == {*there}


def test_the_new_one_runs_only_when_the_other_has_stopped() -> None:
    fleet = full("low")
    fleet.create("door", of("high"))

    fleet.pass_time(AFTER + 1, alive=["a"])  # a has been told, and has not obeyed yet

    assert {each.pipeline_id for each in fleet.assignments("a")} == {"door"}
    assert fleet.view("cam-0").status == "moving"
    fleet.obey("a")
    assert fleet.view("cam-0").status == "pending"


def test_no_pipeline_is_displaced_where_the_operator_does_not_want_it() -> None:
    fleet = full("low", config=replace(CONFIG, displace_after=None))
    fleet.create("door", of("high"))

    pass_time(fleet, 3 * AFTER)

    assert running(fleet) == {"cam-0"}
