"""Moving pipelines on purpose: what each device is told, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamfleet_broker.fleet.fleet import Fleet
from streamfleet_broker.fleet.moving.drains import MAX_MOVES
from streamfleet_broker.fleet.moving.handovers import BLIND_AFTER, PAUSE_TIMEOUT, PREPARE_TIMEOUT, RETRY_AFTER
from streamfleet_broker.fleet.records import DeviceRecord, PipelineRecord
from streamfleet_broker.fleet.state import MAX_PIPELINES
from streamfleet_core.protocol.requests import (
    ChangePipeline,
    CordonDevice,
    CreatePipeline,
    DeviceView,
    DrainDevice,
    GetDevice,
    GetEvents,
    PutPipeline,
    Remaining,
    RemoveDevice,
    RestartPipeline,
)
from streamfleet_core.protocol.values import ObservedState, Priority
from tests.fakes.scripted_fleet import (
    CAMERA,
    CONFIG,
    EPOCH,
    FILE,
    CountingRandomSource,
    ScriptedFleet,
    devices,
    scripted_fleet,
)

Told = dict[str, tuple[str, int, int]]


def told(fleet: ScriptedFleet, name: str) -> Told:
    """What a device was told last: the desired status, the generation and that of the run, by pipeline."""
    return {
        each.pipeline_id: (each.desired_status, each.generation, each.run_generation)
        for each in fleet.assignments(name)
    }


def get_ready(fleet: ScriptedFleet, name: str, *, ready: bool | None = True) -> None:
    """A device has its standbys paused, and can emit them or not."""
    fleet.obey(name)
    device = fleet.devices[name]
    standbys = {each.pipeline_id for each in device.assignments if each.standby}
    device.observed = tuple(
        replace(each, ready=ready if each.pipeline_id in standbys else None) for each in device.observed
    )
    fleet.heartbeat(name)


def device(fleet: ScriptedFleet, name: str) -> DeviceView:
    view = fleet.reply(GetDevice(name))
    assert isinstance(view, DeviceView)
    return view


def alone() -> ScriptedFleet:
    """A fleet with a ready, and with b and c enrolled."""
    return scripted_fleet("a", records=devices("a", "b", "c")[1:])


def draining(*pipelines: str, capacity: int = 4) -> ScriptedFleet:
    """A fleet of a and b, with these pipelines on a, which is drained."""
    fleet = alone()
    for pipeline_id in pipelines:
        fleet.create(pipeline_id)
    fleet.obey("a")
    fleet.join("b", capacity=capacity)
    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)
    return fleet


def pausing(*pipelines: str) -> ScriptedFleet:
    """The same fleet, after b has got ready: a is told to pause."""
    fleet = draining(*pipelines)
    get_ready(fleet, "b")
    fleet.pass_time(0.5)
    return fleet


# cordons ----------------------------------------------------------------------------------------------------


def test_nothing_is_placed_on_a_cordoned_device_and_what_runs_there_goes_on() -> None:
    fleet = alone()
    fleet.create("door")
    before = told(fleet, "a")

    view = fleet.reply(CordonDevice("a"))
    placed = fleet.create("gate")
    refused = fleet.error(CreatePipeline(pipeline_id="yard", spec=CAMERA, device="a"))
    reason = fleet.view("gate").reason
    after = told(fleet, "a")
    fleet.ask(CordonDevice("a", cordoned=False))

    assert (view.cordoned, view.draining) == (True, False)
    assert (placed.device, placed.status) == (None, "pending")
    assert reason == "no device takes pipelines: a is cordoned"
    assert refused.message == "device a is cordoned: uncordon it, or name another device"
    assert after == before
    assert set(told(fleet, "a")) == {"door", "gate"}


def test_a_pipeline_on_a_cordoned_device_may_be_changed_and_restarted() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door", FILE, device="a")
    fleet.ask(CordonDevice("a"))

    put = fleet.reply(PutPipeline(pipeline_id="door", spec=replace(FILE, confidence=0.7), device="a"))
    restarted = fleet.reply(RestartPipeline("door"))

    assert (put.pipeline.device, restarted.device) == ("a", "a")


def test_a_cordon_and_a_drain_outlive_the_broker() -> None:
    fleet = alone()
    fleet.ask(DrainDevice("a", 60.0))
    (record,) = (row for row in fleet.saved.values() if isinstance(row, DeviceRecord))
    fleet.fleet = Fleet(CONFIG, EPOCH + 1, [record], CountingRandomSource(), now=0.0, unix_time=1_000_000.0)

    view = device(fleet, "a")

    assert (view.cordoned, view.draining) == (True, True)


def test_a_device_that_nobody_knows_is_not_drained() -> None:
    fleet = alone()

    assert fleet.error(DrainDevice("z")).code == "not_found"


def test_cordons_and_drains_are_events() -> None:
    fleet = alone()
    fleet.create("door")
    fleet.obey("a")
    before = fleet.reply(GetEvents(EPOCH)).events[-1].n

    fleet.ask(CordonDevice("a"))
    fleet.ask(DrainDevice("a"))
    fleet.change("door", "stop")
    fleet.obey("a")
    fleet.pass_time(0.5, alive=["a"])
    fleet.ask(CordonDevice("a", cordoned=False))
    events = fleet.reply(GetEvents(EPOCH, before)).events

    reasons = [event.reason for event in events if event.subject == "device"]
    assert reasons == ["cordoned", "draining", "drained", "ended: drained"]


# moves without a gap ----------------------------------------------------------------------------------------


def test_a_pipeline_runs_on_until_another_device_is_ready_then_pauses_and_then_runs_there() -> None:
    fleet = draining("door")
    first = told(fleet, "a"), told(fleet, "b")
    fleet.obey("a")
    get_ready(fleet, "b", ready=False)
    fleet.pass_time(1, alive=["a", "b"])
    waits = told(fleet, "a")
    get_ready(fleet, "b")
    fleet.pass_time(0.5)
    second = told(fleet, "a"), told(fleet, "b")
    fleet.heartbeat("b")
    unconfirmed = told(fleet, "b")
    fleet.obey("a")
    third = told(fleet, "a"), told(fleet, "b")
    fleet.obey("a", "b")

    assert first == ({"door": ("run", 2, 1)}, {"door": ("pause", 2, 2)})
    assert waits == first[0]
    assert second == ({"door": ("pause", 3, 1)}, {"door": ("pause", 3, 2)})
    assert unconfirmed == second[1]
    assert third == ({}, {"door": ("run", 4, 2)})
    assert (fleet.view("door").device, fleet.view("door").status) == ("b", "running")
    assert device(fleet, "a").remaining == ()


def test_meanwhile_operators_see_where_it_goes() -> None:
    fleet = draining("door")

    view = fleet.view("door")

    assert (view.device, view.status, view.reason) == ("a", "running", "device b gets ready to take it over")
    assert device(fleet, "a").remaining == (Remaining("door", "moving", "to b"),)
    assert device(fleet, "b").pipelines == 0


def test_a_pipeline_that_is_paused_stays_paused_as_it_moves() -> None:
    fleet = alone()
    fleet.create("door")
    fleet.change("door", "pause")
    fleet.obey("a")
    fleet.join("b")
    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)
    for _ in range(3):
        get_ready(fleet, "b")
        fleet.pass_time(0.5)
        fleet.obey("a")

    assert told(fleet, "a") == {}
    assert [status for status, _, _ in told(fleet, "b").values()] == ["pause"]


def test_a_worker_of_an_older_version_is_ready_after_some_seconds() -> None:
    fleet = draining("door")
    get_ready(fleet, "b", ready=None)

    fleet.pass_time(BLIND_AFTER - 1, alive=["a", "b"])
    before = told(fleet, "a")
    fleet.pass_time(1.5, alive=["a", "b"])

    assert before == {"door": ("run", 2, 1)}
    assert told(fleet, "a") == {"door": ("pause", 3, 1)}


def test_a_device_that_does_not_pause_loses_the_pipeline_and_nobody_runs_it_before_it_is_absent() -> None:
    fleet = draining("door")
    get_ready(fleet, "b")
    fleet.pass_time(0.5)

    fleet.pass_time(PAUSE_TIMEOUT + 1, alive=["a", "b"])
    taken = told(fleet, "a"), told(fleet, "b")
    fleet.obey("a")

    assert taken == ({}, {})
    assert [status for status, _, _ in told(fleet, "b").values()] == ["run"]


def test_if_no_device_gets_ready_it_stays_and_says_why_and_is_tried_again() -> None:
    fleet = draining("door")

    fleet.pass_time(PREPARE_TIMEOUT + 1, alive=["a", "b"])
    given_up = told(fleet, "b")
    (remaining,) = device(fleet, "a").remaining
    fleet.pass_time(RETRY_AFTER + 1, alive=["a", "b"])

    assert given_up == {}
    assert remaining == Remaining("door", "waiting", "b was not ready for it within 90 s")
    assert [status for status, _, _ in told(fleet, "a").values()] == ["run"]
    assert [status for status, _, _ in told(fleet, "b").values()] == ["pause"]


def test_a_forced_drain_moves_what_no_device_got_ready_for() -> None:
    fleet = draining("door")
    fleet.pass_time(PREPARE_TIMEOUT + 1, alive=["a", "b"])

    fleet.ask(DrainDevice("a", 0.0))
    fleet.pass_time(0.5)
    fleet.obey("a")

    assert told(fleet, "a") == {}
    assert [status for status, _, _ in told(fleet, "b").values()] == ["run"]


def test_what_fails_on_the_other_device_stays() -> None:
    fleet = draining("door")
    fleet.obey("b", state=ObservedState.FAILED)

    fleet.pass_time(0.5, alive=["a", "b"])

    assert told(fleet, "b") == {}
    assert [each.reason for each in device(fleet, "a").remaining] == ["b cannot run it"]


def test_if_the_old_device_is_lost_the_one_that_gets_ready_takes_over() -> None:
    fleet = draining("door")
    get_ready(fleet, "b", ready=False)

    fleet.pass_time(CONFIG.lease + 1, alive=["b"])

    assert told(fleet, "b") == {"door": ("run", 3, 2)}


def test_if_the_new_device_is_lost_the_pipeline_goes_on_where_it_is() -> None:
    fleet = draining("door")

    fleet.pass_time(CONFIG.lease + 1, alive=["a"])

    assert told(fleet, "a") == {"door": ("run", 2, 1)}
    assert fleet.view("door").status == "running"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(CordonDevice("a", cordoned=False), id="uncordon"),
        pytest.param(RestartPipeline("door"), id="restart"),
        pytest.param(CordonDevice("b"), id="cordon the other"),
        pytest.param(
            PutPipeline(
                pipeline_id="door", spec=replace(CAMERA, sources=(replace(CAMERA.sources[0], mode="live"),))
            ),
            id="another source",
        ),
    ],
)
def test_what_ends_a_move(change: Any) -> None:
    fleet = draining("door")
    fleet.ask(CordonDevice("b"))  # so that it does not begin again

    fleet.ask(change)
    fleet.pass_time(0.5, alive=["a", "b"])

    assert told(fleet, "b") == {}
    assert [status for status, _, _ in told(fleet, "a").values()] == ["run"]


def test_a_change_while_it_moves_reaches_both_devices() -> None:
    fleet = draining("door")

    fleet.ask(PutPipeline(pipeline_id="door", spec=replace(CAMERA, confidence=0.7)))

    assert told(fleet, "a") == {"door": ("run", 3, 1)}
    assert told(fleet, "b") == {"door": ("pause", 3, 2)}
    assert [each.spec.confidence for each in fleet.assignments("b")] == [0.7]


@pytest.mark.parametrize("paused", [False, True], ids=["while b gets ready", "while a pauses"])
def test_a_pipeline_that_is_stopped_while_it_moves_is_gone_from_both(paused: bool) -> None:
    fleet = draining("door")
    if paused:
        get_ready(fleet, "b")
        fleet.pass_time(0.5)

    fleet.ask(ChangePipeline("door", "stop"))
    fleet.obey("a")

    assert [status for status, _, _ in told(fleet, "a").values()] == []
    assert told(fleet, "b") == {}
    assert not any(
        isinstance(row, PipelineRecord) for key, row in fleet.saved.items() if key == ("pipeline", "door")
    )


@pytest.mark.parametrize("paused", [False, True], ids=["while b gets ready", "while a pauses"])
def test_another_broker_goes_on_with_a_move(paused: bool) -> None:
    fleet = draining("door")
    get_ready(fleet, "b")
    if paused:
        fleet.pass_time(0.5)
    rows = [row for row in fleet.saved.values() if isinstance(row, (PipelineRecord, DeviceRecord))]
    records = {row.device: row for row in scripted_fleet("a", "b").fleet._state.records.devices.values()}
    records |= {row.device: row for row in rows if isinstance(row, DeviceRecord)}
    pipelines = [row for row in rows if isinstance(row, PipelineRecord)]
    fleet.fleet = Fleet(
        CONFIG,
        EPOCH + 1,
        [*records.values(), *pipelines],
        CountingRandomSource(),
        now=fleet.now,
        unix_time=1_000_000.0,
    )
    fleet.perform(fleet.fleet.start())
    for name in ("a", "b"):
        fleet.hello(name, observed=fleet.devices[name].observed)
        fleet.heartbeat(name)
    get_ready(fleet, "b")
    fleet.pass_time(1)
    fleet.obey("a")

    assert told(fleet, "a") == {}
    assert [status for status, _, _ in told(fleet, "b").values()] == ["run"]


@pytest.mark.parametrize("paused", [False, True], ids=["while b gets ready", "while a pauses"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_both_devices_are_removable_while_a_pipeline_moves(name: str, paused: bool) -> None:
    fleet = pausing("door") if paused else draining("door")

    fleet.reply(RemoveDevice(name))
    fleet.ask(CordonDevice("a", cordoned=False))
    for _ in range(3):
        fleet.obey(*{"a", "b"} - {name})
        fleet.pass_time(0.5)

    assert fleet.view("door").status == "running"
    assert fleet.view("door").device not in (None, name)


@pytest.mark.parametrize(
    ("paused", "name"), [(False, "a"), (True, "b")], ids=["while b gets ready", "while a pauses"]
)
def test_a_pipeline_that_is_bound_to_its_device_while_it_moves_stays_there(paused: bool, name: str) -> None:
    fleet = pausing("door") if paused else draining("door")

    fleet.ask(PutPipeline(pipeline_id="door", spec=CAMERA, device=name, on_disconnect="stop"))
    for _ in range(3):
        get_ready(fleet, "b")
        fleet.obey("a")
        fleet.pass_time(0.5, alive=["a", "b"])

    (other,) = {"a", "b"} - {name}
    assert told(fleet, other) == {}
    assert [status for status, _, _ in told(fleet, name).values()] == ["run"]
    assert fleet.view("door").requested == name


def test_a_standby_stops_when_its_pipeline_is_stopped_after_the_loss_of_its_device() -> None:
    fleet = scripted_fleet("a", "c", "d", records=devices("a", "c", "d", "b")[3:])
    fleet.create("door", replace(CAMERA, priority="high"))
    for name in ("c", "d"):
        fleet.ask(CordonDevice(name))
    fleet.obey("a")
    fleet.join("b")
    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)
    fleet.pass_time(CONFIG.lease + 1, alive=["b"])  # most are silent: nothing is moved
    before = told(fleet, "b")

    fleet.ask(ChangePipeline("door", "stop"))

    assert before == {"door": ("pause", 2, 2)}
    assert told(fleet, "b") == {}


def test_a_device_has_no_more_pipelines_than_it_may_although_one_is_arriving() -> None:
    fleet = alone()
    fleet.create("door")
    fleet.obey("a")
    fleet.join("b", capacity=2 * MAX_PIPELINES)
    for number in range(MAX_PIPELINES - 1):
        fleet.create(f"p{number}", device="b")
    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)

    refused = fleet.error(CreatePipeline(pipeline_id="more", spec=CAMERA, device="b"))

    assert "door" in told(fleet, "b")
    assert refused.message == f"device b has {MAX_PIPELINES} pipelines already"


# drains -----------------------------------------------------------------------------------------------------


def test_a_drain_moves_a_few_at_a_time_the_highest_priority_first() -> None:
    fleet = alone()
    fleet.hello("a", capacity=8)
    fleet.heartbeat("a")
    priorities: tuple[Priority, ...] = ("low", "normal", "high")
    for number in range(6):
        fleet.create(f"p{number}", replace(CAMERA, priority=priorities[number % 3]))
    fleet.obey("a")
    fleet.join("b", capacity=8)

    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)
    first = list(told(fleet, "b"))
    get_ready(fleet, "b")
    fleet.pass_time(0.5)
    fleet.obey("a")
    fleet.pass_time(0.5)

    assert (MAX_MOVES, sorted(first)) == (4, ["p1", "p2", "p4", "p5"])
    assert sorted(told(fleet, "b")) == ["p0", "p1", "p2", "p3", "p4", "p5"]


def test_a_drain_waits_while_most_of_the_fleet_is_silent() -> None:
    fleet = scripted_fleet("a", "b", "c", "d", "e")
    fleet.create("door", CAMERA)
    holder = fleet.view("door").device or ""
    fleet.obey(holder)
    other = next(name for name in "abcde" if name != holder)
    fleet.pass_time(4, alive=[holder, other])

    fleet.ask(DrainDevice(holder))
    fleet.pass_time(1, alive=[holder, other])
    waiting = device(fleet, holder).remaining
    fleet.pass_time(1, alive="abcde")

    assert waiting == (Remaining("door", "waiting", "nothing is moved while most of the fleet is silent"),)
    assert [each.state for each in device(fleet, holder).remaining] == ["moving"]


def test_what_finds_no_room_runs_on_and_says_so_until_there_is_some() -> None:
    fleet = draining("door", "gate", "yard", capacity=1)

    left = device(fleet, "a").remaining
    get_ready(fleet, "b")
    fleet.pass_time(0.5)
    fleet.obey("a")
    fleet.join("c", capacity=2)
    fleet.pass_time(0.5)

    full = "no other device has room: b runs 1 of 1"
    assert left == (
        Remaining("door", "moving", "to b"),
        Remaining("gate", "waiting", full),
        Remaining("yard", "waiting", full),
    )
    assert set(told(fleet, "c")) == {"gate", "yard"}


def test_what_is_bound_to_its_device_stays_and_says_why() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("named", CAMERA, device="a")
    fleet.create("usb", replace(CAMERA, sources=(replace(CAMERA.sources[0], reference=0),)), device="a")
    fleet.obey("a")

    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)

    assert device(fleet, "a").remaining == (
        Remaining("named", "staying", "a pipeline that names its device waits for it"),
        Remaining("usb", "staying", "a local camera waits for its device"),
    )


def test_what_continues_without_the_broker_stays_until_that_is_changed() -> None:
    fleet = alone()
    fleet.ask(CreatePipeline(pipeline_id="door", spec=CAMERA, on_disconnect="continue"))
    fleet.obey("a")
    fleet.join("b")
    fleet.ask(DrainDevice("a", 0.0))
    fleet.pass_time(0.5)
    stays = device(fleet, "a").remaining

    fleet.ask(PutPipeline(pipeline_id="door", spec=CAMERA, on_disconnect="stop"))
    for _ in range(3):
        get_ready(fleet, "b")
        fleet.obey("a")
        fleet.pass_time(0.5, alive=["a", "b"])

    why = "a pipeline that continues without the broker stays with its device"
    assert stays == (Remaining("door", "staying", why),)
    assert told(fleet, "a") == {}
    assert [status for status, _, _ in told(fleet, "b").values()] == ["run"]


def test_a_device_is_not_drained_while_a_pipeline_is_coming() -> None:
    fleet = pausing("door")

    fleet.ask(DrainDevice("b"))
    before = device(fleet, "b")
    events = fleet.reply(GetEvents(EPOCH)).events
    fleet.ask(CordonDevice("a", cordoned=False))
    for _ in range(4):
        fleet.obey("a")
        get_ready(fleet, "b")
        get_ready(fleet, "a")
        fleet.pass_time(0.5, alive=["a", "b"])

    assert before.remaining == (Remaining("door", "waiting", "it is just coming from a"),)
    assert not any(event.reason == "drained" for event in events)
    assert device(fleet, "b").remaining == ()
    assert [status for status, _, _ in told(fleet, "a").values()] == ["run"]


def test_a_file_ends_first_and_then_the_device_is_drained() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("clip", FILE, device="a")
    fleet.obey("a")

    fleet.ask(DrainDevice("a"))
    plays = device(fleet, "a").remaining
    fleet.obey("a", state=ObservedState.ENDED)

    assert plays == (Remaining("clip", "waiting", "it plays a file to its end"),)
    assert device(fleet, "a").remaining == ()


def test_after_its_time_a_drain_does_not_wait_for_files() -> None:
    http = replace(CAMERA, sources=(replace(CAMERA.sources[0], mode="file"),))
    fleet = alone()
    fleet.create("clip", http)
    fleet.obey("a")
    fleet.join("b")

    fleet.ask(DrainDevice("a", 5.0))
    fleet.pass_time(4, alive=["a", "b"])
    waits = device(fleet, "a").remaining
    fleet.pass_time(2, alive=["a", "b"])

    assert waits == (Remaining("clip", "waiting", "it plays a file to its end"),)
    assert set(told(fleet, "b")) == {"clip"}


def test_what_does_not_emit_moves_at_once() -> None:
    fleet = alone()
    fleet.create("door")
    fleet.obey("a", state=ObservedState.RECONNECTING)
    fleet.join("b")

    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)
    fleet.obey("a")

    assert told(fleet, "a") == {}
    assert [status for status, _, _ in told(fleet, "b").values()] == ["run"]


def test_a_device_that_returns_leaves_its_pipelines_where_they_are() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("door")
    fleet.obey("a")
    fleet.pass_time(CONFIG.lease + 1, alive=["b"])
    fleet.obey("b")

    fleet.join("a")
    fleet.pass_time(5, alive=["a", "b"])

    assert told(fleet, "a") == {}
    assert set(told(fleet, "b")) == {"door"}
    assert fleet.view("door").status == "running"
