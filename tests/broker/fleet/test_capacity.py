"""What pipelines cost, and what follows from it for where they run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.fleet.capacity.amounts import Amounts
from streamfleet_broker.fleet.capacity.cost_table import (
    MAX_KEPT,
    MAX_OF_BOARDS,
    MAX_OF_MODEL,
    CostTable,
)
from streamfleet_broker.fleet.capacity.demand import Host, demand_of, workload_of
from streamfleet_broker.fleet.records import ModelRecord
from streamfleet_broker.fleet.scheduler import RESERVED
from streamfleet_core.protocol.costs import BoardCost, Cost, Measured, Resources
from streamfleet_core.protocol.requests import (
    CordonDevice,
    CreatePipeline,
    DesiredPipeline,
    DrainDevice,
    GetDevice,
    ListCosts,
    ListPipelines,
    Plan,
    PlanPipelines,
    PutModel,
    PutPipeline,
)
from streamfleet_core.protocol.values import PipelineSpec, SourceSpec, Stage
from tests.fakes.costs import COST as MEASURED
from tests.fakes.scripted_fleet import CAMERA, CONFIG, FILE, ScriptedFleet, scripted_fleet

BOARD = "Orin Nano"
DIGEST = CAMERA.model.digest
COST = replace(MEASURED, digest=DIGEST)
RESOURCES = Resources(board=BOARD, cores=2.0 / (1 - RESERVED), memory=4 << 30, is_limited=False)
HOST = Host(BOARD, 8, Amounts(1.0, 2.0, float(4 << 30), 64))
PACED = replace(CAMERA, max_fps=5.0)


def joined(*names: str, spare: int = 0, resources: Resources | None = RESOURCES) -> ScriptedFleet:
    """A fleet of devices that have measured the model already, and run nothing."""
    record = ModelRecord(CAMERA.model.id, DIGEST, (BoardCost(BOARD, COST),))
    fleet = scripted_fleet(*names, records=[record], config=replace(CONFIG, spare=spare))
    for name in names:
        fleet.hello(name, capacity=8, resources=resources)
        fleet.heartbeat(name)
    return fleet


def filled(fleet: ScriptedFleet, spec: PipelineSpec = PACED) -> list[str]:
    """Create pipelines until one waits; those that run."""
    for number in range(200):
        if fleet.create(f"cam-{number}", spec).device is None:
            return [f"cam-{each}" for each in range(number)]
    raise AssertionError("there is no end")


# demand ---------------------------------------------------------------------------------------------------


def known(*costs: Cost) -> CostTable:
    return CostTable(BoardCost(BOARD, cost) for cost in costs)


def test_a_demand_is_the_rate_times_the_cost() -> None:
    demand = demand_of(workload_of(PACED, None), HOST, known(COST))

    # 5 inferences and frames a second, of a source that delivers 25.
    assert demand.amounts.cores == pytest.approx(5 * (0.05 + 0.01) + 25 * 0.001)
    assert demand.amounts.engine == pytest.approx(5 * 0.05 / 2)
    assert demand.amounts.memory == 300 << 20
    assert demand.amounts.places == 1
    assert demand.is_measured


def test_an_accelerator_has_its_own_time() -> None:
    demand = demand_of(workload_of(PACED, None), HOST, known(replace(COST, accelerator=0.02)))

    assert demand.amounts.engine == pytest.approx(5 * 0.02)


def test_a_live_source_without_a_rate_needs_what_it_delivers_and_at_most_a_whole_device() -> None:
    slow = demand_of(workload_of(CAMERA, 10.0), HOST, known(COST))
    assert slow.amounts.cores == pytest.approx(10 * 0.06 + 10 * 0.001)

    fast = demand_of(workload_of(CAMERA, 60.0), HOST, known(COST))
    assert (fast.amounts.engine, fast.amounts.cores) == (1.0, 2.0)

    assert demand_of(workload_of(CAMERA, None), HOST, known(COST)).amounts.engine == pytest.approx(0.625)


def test_a_source_that_delivers_less_than_its_limit_needs_less() -> None:
    demand = demand_of(workload_of(replace(CAMERA, max_fps=30.0), 5.0), HOST, known(COST))

    assert demand.amounts.engine == pytest.approx(5 * 0.05 / 2)


def test_a_file_at_full_speed_takes_a_share_and_what_is_left() -> None:
    demand = demand_of(workload_of(FILE, None), HOST, known(COST))

    assert (demand.amounts.engine, demand.amounts.cores) == (1 / 8, 2 / 8)
    assert not demand.is_measured


def test_what_is_unknown_is_a_share() -> None:
    for costs in (known(), CostTable([BoardCost("another board", COST)])):
        demand = demand_of(workload_of(PACED, None), HOST, costs)
        assert demand.amounts == Amounts(1 / 8, 2 / 8, 0.0, 1)
        assert not demand.is_measured


def test_the_memory_of_a_model_counts_once_on_a_device() -> None:
    there = replace(HOST, models=frozenset({DIGEST}))

    assert demand_of(workload_of(PACED, None), there, known(COST)).amounts.memory == 100 << 20


def test_a_stage_counts_with_one_object_of_each_frame() -> None:
    plates = replace(CAMERA.model, id="plates/1", digest="cd" * 32)
    spec = replace(PACED, stages=(Stage(name="plates", model=plates),))
    more = replace(COST, digest=plates.digest, inference=0.02)

    without = demand_of(workload_of(PACED, None), HOST, known(COST)).amounts
    demand = demand_of(workload_of(spec, None), HOST, known(COST, more)).amounts

    assert demand.cores == pytest.approx(without.cores + 5 * 0.02)
    assert not demand_of(workload_of(spec, None), HOST, known(COST)).is_measured


@given(st.floats(0.1, 30), st.floats(0.1, 30), st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_higher_rate_and_a_higher_cost_never_need_less(
    slow: float, more: float, cheap: float, dearer: float
) -> None:
    costs = [replace(COST, inference=each) for each in (cheap, cheap + dearer)]
    low = demand_of(workload_of(replace(CAMERA, max_fps=slow), None), HOST, known(costs[0])).amounts
    high = demand_of(workload_of(replace(CAMERA, max_fps=slow + more), None), HOST, known(costs[1])).amounts

    assert low.fits_into(high)


# the table ------------------------------------------------------------------------------------------------


def test_noise_changes_no_cost_in_use() -> None:
    table = known(COST)

    assert table.learn("a", BOARD, [replace(COST, inference=0.054)]) == set()
    assert table.of(DIGEST, BOARD)[0].inference == 0.05
    assert table.learn("a", BOARD, [replace(COST, inference=0.07)]) == {DIGEST}
    assert table.of(DIGEST, BOARD)[0].inference == 0.07


def test_one_wrong_device_among_three_changes_nothing() -> None:
    table = CostTable()
    for name in ("a", "b", "c"):
        table.learn(name, BOARD, [COST])

    table.learn("c", BOARD, [replace(COST, inference=900.0)])

    assert table.of(DIGEST, BOARD)[0].inference == 0.05


def test_the_table_is_bounded() -> None:
    table = CostTable()
    table.learn("a", BOARD, [replace(COST, width=width) for width in range(1, 100)])
    assert len(table.of(DIGEST, BOARD)) == MAX_OF_MODEL

    models = [replace(COST, digest=f"{number:064x}") for number in range(MAX_KEPT)]
    table.learn("a", BOARD, models)
    assert table.of(DIGEST, BOARD) == ()  # the oldest
    assert sum(len(table.of(cost.digest, BOARD)) for cost in models) <= MAX_KEPT


def test_a_device_that_says_it_is_of_ever_other_kinds_ends_nothing_and_drives_no_other_model_out() -> None:
    other = replace(COST, digest="f" * 64)
    table = CostTable([BoardCost(BOARD, other)])

    for number in range(2 * MAX_KEPT // MAX_OF_MODEL):
        table.learn("a", f"board {number}", [replace(COST, width=width) for width in range(MAX_OF_MODEL)])

    assert len(table.of_model(DIGEST)) == MAX_OF_BOARDS
    assert table.of(other.digest, BOARD) == (other,)


# the fleet ------------------------------------------------------------------------------------------------


def test_a_device_takes_as_many_as_fit_and_the_next_one_says_what_is_missing() -> None:
    fleet = joined("edge-3")

    running = filled(fleet)

    assert len(running) == int(2.0 / (5 * 0.06 + 25 * 0.001))
    (waiting,) = (view for view in fleet.reply(ListPipelines()) if view.device is None)
    assert waiting.status == "pending"
    assert waiting.reason == (
        "unschedulable: needs 0.33 cores, the best device (edge-3) has 0.05; "
        "one more device like edge-3 would fit 6"
    )


def test_a_tenth_of_the_cores_is_kept_for_the_device_itself() -> None:
    fleet = joined("a", resources=replace(RESOURCES, cores=4.0))

    assert len(filled(fleet)) == int(3.6 / (5 * 0.06 + 25 * 0.001))
    assert fleet.reply(GetDevice("a")).load.all_cores == pytest.approx(3.6)


def test_what_is_bound_to_a_device_by_its_file_says_what_is_missing_too() -> None:
    fleet = joined("edge-3")
    running = filled(fleet)

    waiting = fleet.create("film", replace(FILE, max_fps=5.0))

    assert len(running) == 6
    assert waiting.reason.startswith("unschedulable: needs 0.30 cores, the best device (edge-3) has 0.05")


def test_what_needs_more_than_a_device_has_a_device_for_itself() -> None:
    """It drops frames there. A wrong measurement keeps no pipeline away from all devices of a kind."""
    fleet = joined("edge-3")

    huge = fleet.create("huge", replace(CAMERA, max_fps=100.0))
    next_one = fleet.create("next", replace(CAMERA, max_fps=100.0))

    assert huge.device == "edge-3"
    assert next_one.reason == (
        "unschedulable: needs 1.00 of an engine, the best device (edge-3) has 0.00; "
        "one more device like edge-3 would fit 1"
    )


def test_without_measurements_the_capacity_counts() -> None:
    fleet = scripted_fleet("a")
    fleet.hello("a", capacity=3, resources=RESOURCES)
    fleet.heartbeat("a")

    assert len(filled(fleet, CAMERA)) == 3
    assert fleet.view("cam-3").reason == "no device has room: a runs 3 of 3"


def test_a_capacity_that_the_operator_has_set_is_a_limit() -> None:
    fleet = joined("a", resources=replace(RESOURCES, cores=64.0, memory=0, is_limited=True))

    assert len(filled(fleet, replace(CAMERA, max_fps=0.1))) == 8
    assert fleet.view("cam-8").reason == (
        "unschedulable: needs 1 place, the best device (a) has 0; one more device like a would fit 8"
    )


def test_a_measurement_moves_nothing_and_counts_for_what_follows() -> None:
    fleet = scripted_fleet("a", "b")
    for name in ("a", "b"):
        fleet.hello(name, capacity=8, resources=RESOURCES)
        fleet.heartbeat(name)
    for number in range(6):
        fleet.create(f"cam-{number}", PACED)
    fleet.obey()
    before = {view.pipeline_id: view.device for view in fleet.reply(ListPipelines())}

    fleet.heartbeat("a", measured=Measured(costs=(replace(COST, inference=0.15),)))
    fleet.pass_time(2, alive=("a", "b"))

    assert {view.pipeline_id: view.device for view in fleet.reply(ListPipelines())} == before
    load = fleet.reply(GetDevice("a")).load
    assert (load.measured, load.guessed) == (3, 0)
    assert load.cores == pytest.approx(3 * (5 * 0.16 + 25 * 0.001), abs=1e-3)  # more than it has
    assert fleet.create("next", PACED).device is None


def test_a_device_reports_costs_only_of_models_that_it_runs() -> None:
    fleet = joined("a")
    other = replace(COST, digest="ef" * 32)

    fleet.heartbeat("a", measured=Measured(costs=(other, replace(COST, inference=0.9))))

    assert fleet.reply(ListCosts(other.digest)) == ()
    assert fleet.reply(ListCosts(DIGEST)) == (BoardCost(BOARD, COST),)


def test_costs_are_kept_with_the_model() -> None:
    fleet = joined("a")
    fleet.create("door", PACED)

    fleet.heartbeat("a", measured=Measured(costs=(replace(COST, inference=0.2),)))

    saved = fleet.saved["model", CAMERA.model.id]
    assert isinstance(saved, ModelRecord)
    assert [each.cost.inference for each in saved.costs] == [0.2]
    fleet.reply(PutModel(replace(CAMERA.model, digest="ef" * 32)))
    changed = fleet.saved["model", CAMERA.model.id]
    assert isinstance(changed, ModelRecord)
    assert changed.costs == ()


def test_what_the_sources_of_a_pipeline_deliver_counts_for_it() -> None:
    fleet = joined("a", "b")
    fleet.create("door", CAMERA)
    assert fleet.reply(GetDevice("a")).load.cores == pytest.approx(25 * 0.061, abs=1e-3)

    fleet.heartbeat("a", measured=Measured(rates={"door": 10.0, "foreign": 3.0}))

    assert fleet.reply(GetDevice("a")).load.cores == pytest.approx(10 * 0.061, abs=1e-3)
    fleet.reply(PutPipeline(pipeline_id="door", spec=replace(CAMERA, sources=(SourceSpec("rtsp://b/x"),))))
    assert fleet.reply(GetDevice("a")).load.cores == pytest.approx(25 * 0.061, abs=1e-3)


def test_waiting_pipelines_are_placed_by_priority_and_then_by_age() -> None:
    fleet = joined("a")
    running = filled(fleet)
    for name, priority in (("old", "normal"), ("low", "low"), ("high", "high")):
        fleet.create(name, replace(PACED, priority=priority))  # type: ignore[arg-type]
    fleet.obey()

    for pipeline_id in running[:2]:
        fleet.change(pipeline_id, "stop")
    fleet.obey()
    fleet.pass_time(1, alive=["a"])

    placed = {view.pipeline_id for view in fleet.reply(ListPipelines()) if view.device}
    assert {"high", "cam-6"} <= placed
    assert not {"old", "low"} & placed


def test_with_spare_room_the_pipelines_of_any_device_fit_on_the_others() -> None:
    fleet = joined("a", "b", "c", spare=1)

    running = filled(fleet)

    assert len(running) == 12  # of 18
    assert fleet.view("cam-12").reason == (
        "unschedulable: if b were lost, its pipelines would not fit on the others (spare)"
    )
    fleet.obey()
    fleet.pass_time(12, alive=["a", "b"])
    fleet.pass_time(1, alive=["a", "b"])
    where = [view.device for view in fleet.reply(ListPipelines()) if view.pipeline_id in running]
    assert set(where) == {"a", "b"}


def test_who_displaces_others_leaves_the_spare_room_as_it_is() -> None:
    fleet = joined("a", "b", "c", spare=1)
    running = filled(fleet, replace(PACED, priority="low"))
    fleet.obey()

    fleet.create("door", replace(PACED, priority="high"))
    for _ in range(8):
        fleet.pass_time(1, alive=["a", "b", "c"])
        fleet.obey()

    views = {view.pipeline_id: view for view in fleet.reply(ListPipelines())}
    waiting = [view.pipeline_id for view in views.values() if view.status != "running"]
    assert views["door"].status == "running"
    assert len(waiting) == 2  # one that was displaced, and one that there was no room for
    assert len(views) - len(waiting) == len(running)


def test_one_device_alone_has_nothing_to_spare() -> None:
    fleet = joined("a", spare=1)

    assert fleet.create("door", PACED).device is None
    assert fleet.create("own", FILE, "a").device == "a"  # what never moves needs no other device


# plans ----------------------------------------------------------------------------------------------------


def plan(fleet: ScriptedFleet, *pipelines: DesiredPipeline) -> Plan:
    found = fleet.reply(PlanPipelines(pipelines=pipelines))
    assert isinstance(found, Plan)
    return found


def test_a_plan_says_where_pipelines_would_go_and_changes_nothing() -> None:
    fleet = joined("a", "b")
    wanted = [DesiredPipeline(pipeline_id=f"cam-{number}", spec=PACED) for number in range(14)]

    found = plan(fleet, *wanted)

    assert fleet.reply(ListPipelines()) == ()
    assert [each.device for each in found.pipelines].count("a") == 6
    assert [each.device for each in found.pipelines].count("b") == 6
    assert [each.pipeline_id for each in found.pipelines if each.device is None] == ["cam-12", "cam-13"]
    assert found.pipelines[12].reason.startswith("unschedulable: needs 0.33 cores")
    assert found.devices["a"].cores == pytest.approx(6 * 0.325, abs=1e-3)
    placed = {each.pipeline_id: each.device for each in found.pipelines}
    for each in wanted:
        view = fleet.reply(CreatePipeline(pipeline_id=each.pipeline_id, spec=each.spec))
        assert view.device == placed[each.pipeline_id]


def test_a_planned_pipeline_takes_the_place_of_the_one_with_its_id() -> None:
    fleet = joined("a", "b")
    fleet.create("door", PACED)
    device = fleet.view("door").device

    found = plan(fleet, DesiredPipeline(pipeline_id="door", spec=replace(PACED, max_fps=10.0)))

    assert found.pipelines[0].device == device
    assert device is not None
    assert found.devices[device].cores == pytest.approx(10 * 0.06 + 25 * 0.001, abs=1e-3)
    assert fleet.view("door").spec == PACED


def test_a_plan_for_an_unknown_device_is_refused() -> None:
    fleet = joined("a")

    error = fleet.error(
        PlanPipelines(pipelines=(DesiredPipeline(pipeline_id="door", spec=PACED, device="z"),))
    )

    assert error.message == "no device z, the known ones are: a"


def test_a_plan_counts_a_pipeline_that_is_moving_once() -> None:
    fleet = joined("a", "b")
    fleet.ask(CordonDevice("b"))
    fleet.create("door", PACED)
    fleet.ask(CordonDevice("b", cordoned=False))
    fleet.obey("a")
    fleet.ask(DrainDevice("a"))
    fleet.pass_time(0.5)

    found = plan(fleet, DesiredPipeline(pipeline_id="door", spec=PACED, device="b"))

    assert [each.pipeline_id for each in fleet.assignments("b")] == ["door"]
    assert found.devices["b"].measured == 1


def test_a_plan_knows_that_what_continues_without_the_broker_needs_no_spare() -> None:
    fleet = joined("a", spare=1)

    found = plan(fleet, DesiredPipeline(pipeline_id="door", spec=PACED, on_disconnect="continue"))
    made = fleet.reply(CreatePipeline(pipeline_id="door", spec=PACED, on_disconnect="continue"))

    assert made.device == "a"
    assert [each.device for each in found.pipelines] == ["a"]
