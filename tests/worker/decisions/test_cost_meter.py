"""What a device learns from the counters of its processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_core.protocol.limits import MAX_COSTS
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import (
    Assignment,
    ModelRef,
    Observed,
    ObservedState,
    PipelineSpec,
    SourceSpec,
)
from streamfleet_worker.decisions.cost_meter import INTERVAL, CostMeter
from streamfleet_worker.decisions.pipeline_table import PipelineView
from streamfleet_worker.ipc.child_messages import (
    CameraCostReport,
    CameraReport,
    EngineCostReport,
    EngineReport,
    PublisherReport,
)

DIGEST = "ab" * 32
SPEC = PipelineSpec(model=ModelRef("parts/1", DIGEST), sources=(SourceSpec("rtsp://10.0.0.9/door"),))


def view(seconds: float, *, fps: float = 5.0, source_fps: float = 25.0, frame: float = 0.01) -> PipelineView:
    """A camera that has run so long: 1 ms for each frame that it reads, and `frame` for each inferred one."""
    received, inferred = int(seconds * source_fps), int(seconds * fps)
    frame_cpu = inferred * frame
    source = SourceStat(
        source_id=0,
        reference="rtsp://10.0.0.9/door",
        state="RUNNING",
        received=received,
        inferred=inferred,
        width=1280,
        height=720,
        decoder="software",
    )
    report = CameraReport(
        generation=1,
        state=ObservedState.RUNNING,
        reason="",
        waiting_for_engine=False,
        emitted=inferred,
        sources=(source,),
        dropped={},
        fps=fps,
        report={},
        cost=CameraCostReport(1.0 + frame_cpu + received * 0.001, frame_cpu, 100),
    )
    assignment = Assignment(
        pipeline_id="door",
        generation=1,
        run_generation=1,
        desired_status="run",
        on_disconnect="stop",
        spec=SPEC,
    )
    observed = Observed(pipeline_id="door", generation=1, incarnation=1, state=ObservedState.RUNNING)
    return PipelineView(
        assignment=assignment,
        observed=observed,
        alive=True,
        report=report,
        report_age=0.0,
        last_crash="",
        model=assignment.spec.model,
    )


def engine(inferences: int, *, each: float = 0.05) -> dict[tuple[str, int], EngineReport]:
    cost = EngineCostReport(inferences * each, inferences)
    return {(DIGEST, 1): EngineReport("ready", "", inferences, 0.0, cost=cost, memory=200)}


def sampled(meter: CostMeter, *, first: int = 0, times: int = 5, each: float = 0.05) -> None:
    for number in range(first, first + times):
        seconds = number * INTERVAL
        publisher = PublisherReport(int(seconds * 5), 0, 0, cpu=seconds * 5 * 0.002)
        meter.sample([view(seconds)], engine(int(seconds * 5), each=each), publisher, seconds)


def test_costs_are_growths_divided_by_growths() -> None:
    meter = CostMeter()

    sampled(meter)

    (cost,) = meter.measured.costs
    assert (cost.digest, cost.decoder, cost.width, cost.height) == (DIGEST, "software", 1280, 720)
    assert cost.inference == pytest.approx(0.05)
    assert cost.reading == pytest.approx(0.001)
    assert cost.frame == pytest.approx(0.012)  # with the publisher's part
    assert cost.source_fps == pytest.approx(25.0)
    assert (cost.engine_memory, cost.camera_memory) == (200, 100)
    assert meter.measured.rates == {"door": pytest.approx(25.0)}


def test_nothing_is_told_before_it_is_known() -> None:
    meter = CostMeter()

    sampled(meter, times=1)

    assert meter.measured.costs == ()


def test_only_a_noticeable_change_is_told() -> None:
    meter = CostMeter()
    sampled(meter)
    told = meter.measured

    sampled(meter, first=5)
    assert meter.measured is told

    meter.sample([view(50.0)], engine(250, each=0.2), None, 50.0)
    assert meter.measured is not told
    assert meter.measured.costs[0].inference > 0.1


def test_a_camera_that_was_started_again_counts_from_its_start() -> None:
    meter = CostMeter()
    sampled(meter)
    before = meter.measured

    again = view(1.0)
    meter.sample([replace(again, observed=replace(again.observed, incarnation=2))], engine(125), None, 30.0)

    assert meter.measured.costs == before.costs


def test_what_does_not_run_keeps_its_cost() -> None:
    meter = CostMeter()
    sampled(meter)
    before = meter.measured

    for number in range(5, 205):
        meter.sample([], {}, None, number * INTERVAL)
    sampled(meter, first=205)

    assert meter.measured is before


def test_of_many_kinds_of_cameras_the_last_ones_are_told() -> None:
    meter = CostMeter()
    sampled(meter)

    for width in range(2000, 2000 + MAX_COSTS):
        for seconds in (0.0, INTERVAL, 2 * INTERVAL):
            camera = view(seconds)
            assert camera.report is not None
            sources = (replace(camera.report.sources[0], width=width),)
            observed = replace(camera.observed, incarnation=1 + width)
            camera = replace(camera, report=replace(camera.report, sources=sources), observed=observed)
            meter.sample([camera], engine(int(seconds * 5)), None, 1000.0 * width + seconds)

    assert [cost.width for cost in meter.measured.costs] == [*range(2000, 2000 + MAX_COSTS)]
