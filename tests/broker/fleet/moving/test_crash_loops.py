"""Pipelines that crash wherever they run: another device is tried, then they stop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_broker.fleet.fleet import Fleet
from streamfleet_broker.fleet.moving.crash_loops import HEALTHY, MAX_CRASHES
from streamfleet_broker.fleet.records import Record
from streamfleet_core.protocol.requests import (
    ChangePipeline,
    GetEvents,
    OperatorRequest,
    PutPipeline,
    RestartPipeline,
)
from streamfleet_core.protocol.values import Observed, ObservedState
from tests.fakes.scripted_fleet import (
    CAMERA,
    CONFIG,
    EPOCH,
    CountingRandomSource,
    ScriptedFleet,
    scripted_fleet,
)

STOPPED = (
    "it crashed 3 times in a row on a (the camera process was ended by SIGSEGV) "
    "and 3 times in a row on b (the camera process was ended by SIGSEGV)"
)


def crash(fleet: ScriptedFleet, name: str, times: int = MAX_CRASHES) -> None:
    """All that a device runs has crashed so often."""
    fleet.obey(name, state=ObservedState.BACKOFF)
    device = fleet.devices[name]
    reason = "the camera process was ended by SIGSEGV"
    device.observed = tuple(replace(each, reason=reason, crashes=times) for each in device.observed)
    fleet.heartbeat(name)
    fleet.pass_time(0.5)
    fleet.obey(name)


def moved() -> ScriptedFleet:
    """A pipeline that crashed on a, and was moved to b."""
    fleet = scripted_fleet("a", "b", "c")
    fleet.create("door")
    crash(fleet, "a")
    return fleet


def stopped() -> ScriptedFleet:
    """A pipeline that crashed on a and on b."""
    fleet = moved()
    crash(fleet, "b")
    return fleet


def restarted(fleet: ScriptedFleet) -> None:
    """Another broker goes on with what was stored, and with the same devices."""
    known = [*fleet.fleet._state.records.devices.values()]
    pipelines = [row for (kind, _), row in fleet.saved.items() if kind == "pipeline" and row is not None]
    rows: list[Record] = [*known, *pipelines]
    fleet.fleet = Fleet(CONFIG, EPOCH + 1, rows, CountingRandomSource(), now=fleet.now, unix_time=1_000_000.0)
    fleet.perform(fleet.fleet.start())
    for name in ("a", "b", "c"):
        fleet.hello(name, observed=fleet.devices[name].observed)
        fleet.heartbeat(name)


def test_a_pipeline_that_crashes_three_times_in_a_row_is_tried_on_another_device() -> None:
    fleet = scripted_fleet("a", "b", "c")
    fleet.create("door")

    crash(fleet, "a", MAX_CRASHES - 1)
    before = fleet.view("door").device
    crash(fleet, "a")

    assert (before, fleet.view("door").device) == ("a", "b")


def test_one_that_crashes_there_too_stops_and_says_why() -> None:
    fleet = stopped()
    before = fleet.reply(GetEvents()).events[-1]

    fleet.pass_time(60, alive=["a", "b", "c"])

    view = fleet.view("door")
    assert (view.status, view.device, view.reason) == ("failed", None, STOPPED)
    assert (before.id, before.state, before.reason) == ("door", "failed", STOPPED)
    assert [fleet.assignments(name) for name in ("a", "b", "c")] == [(), (), ()]


@pytest.mark.parametrize("first", ["on another device", "stopped"])
def test_another_broker_knows_where_it_crashed(first: str) -> None:
    fleet = moved() if first == "on another device" else stopped()

    restarted(fleet)
    if first == "on another device":
        crash(fleet, "b")
    fleet.pass_time(20, alive=["a", "b", "c"])

    assert (fleet.view("door").status, fleet.view("door").reason) == ("failed", STOPPED)


def test_another_broker_counts_no_crash_twice() -> None:
    fleet = moved()
    fleet.obey("b", state=ObservedState.BACKOFF)
    seen = tuple(replace(each, crashes=MAX_CRASHES - 1) for each in fleet.devices["b"].observed)
    fleet.devices["b"].observed = seen
    fleet.heartbeat("b")

    restarted(fleet)
    fleet.pass_time(20, alive=["a", "b", "c"])

    assert fleet.view("door").device == "b"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(ChangePipeline("door", "run"), id="resume"),
        pytest.param(RestartPipeline("door"), id="restart"),
        pytest.param(PutPipeline(pipeline_id="door", spec=replace(CAMERA, confidence=0.7)), id="change"),
    ],
)
def test_an_operator_who_resumes_or_changes_it_gives_it_another_try(change: OperatorRequest) -> None:
    fleet = stopped()

    fleet.reply(change)
    fleet.pass_time(0.5)
    fleet.obey()
    again = fleet.view("door")
    crash(fleet, str(again.device))

    assert again.status == "running"
    assert fleet.view("door").device not in (None, again.device)


def test_one_that_is_changed_waits_where_no_device_meets_the_change() -> None:
    fleet = stopped()

    fleet.reply(PutPipeline(pipeline_id="door", spec=CAMERA, selector={"site": "nowhere"}))
    fleet.fleet.check()

    assert (fleet.view("door").status, fleet.view("door").device) == ("pending", None)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(PutPipeline(pipeline_id="door", spec=CAMERA, labels={"site": "x"}), id="labels"),
        pytest.param(PutPipeline(pipeline_id="door", spec=CAMERA), id="nothing"),
    ],
)
def test_what_changes_nothing_about_it_starts_it_no_more(change: OperatorRequest) -> None:
    fleet = stopped()

    fleet.reply(change)
    refused = fleet.error(ChangePipeline("door", "pause"))
    fleet.pass_time(1, alive=["a", "b", "c"])

    assert (fleet.view("door").status, fleet.view("door").device) == ("failed", None)
    assert refused.message == "pipeline door is failed"


def test_a_device_speaks_only_of_its_own_pipelines() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", CAMERA)
    fleet.obey()
    fleet.devices["b"].observed = tuple(
        Observed(pipeline_id=name, generation=1, incarnation=1, state=ObservedState.BACKOFF, crashes=9)
        for name in ("door", "nobody's")
    )

    fleet.heartbeat("b")

    assert fleet.fleet._state.crashing == set()
    fleet.pass_time(1, alive=["a", "b"])
    assert fleet.view("door").device == "a"


def test_it_can_be_removed() -> None:
    fleet = stopped()

    fleet.reply(ChangePipeline("door", "stop"))

    assert fleet.saved["pipeline", "door"] is None


def test_a_pipeline_that_has_no_other_device_is_restarted_where_it_is() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door")
    fleet.create("pinned", device="a")
    fleet.leave("b")

    crash(fleet, "a")

    assert {each.pipeline_id for each in fleet.assignments("a")} == {"door", "pinned"}
    assert fleet.view("door").status == "running"


def test_one_that_runs_well_for_long_may_crash_again_before_it_stops() -> None:
    fleet = moved()
    fleet.obey("b")

    fleet.pass_time(HEALTHY + 1, alive=["a", "b", "c"])
    crash(fleet, "b")

    assert fleet.view("door").device in ("a", "c")
