"""Another model that infers some frames of a pipeline: its engine, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_core.protocol.tasks.trials import PipelineFigures, Shadow, ShadowCounts, ShadowStat
from streamfleet_core.protocol.values import ModelRef, ObservedState
from streamfleet_worker.decisions.reconcile_actions import (
    FetchModel,
    ShadowCamera,
    StartCamera,
    StartEngine,
)
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    CameraId,
    EngineId,
    Exited,
    ModelFetched,
    ModelRefused,
    Reported,
)
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport
from tests.fakes.peers import MANIFEST
from tests.fakes.reconciling import CAMERA, DIGEST, Device, assignment, running, says

NEXT = replace(MANIFEST, labels=("person", "truck"))
ENGINE = EngineId(NEXT.digest, 1)
SHADOW = Shadow(pipeline_id="door", model=ModelRef("parts/2", NEXT.digest))
READY = Reported(ENGINE, EngineReport("ready", "", 1, 0.0))


def shadowed() -> Device:
    device = running()
    device.feed(Adopted((assignment(),), (SHADOW,)), ModelFetched(NEXT.digest, NEXT), READY)
    return device


def stat(device: Device) -> ShadowStat | None:
    (view,) = device.core.pipelines(device.now)
    return view.shadow


def test_a_shadow_is_told_when_its_engine_is_ready_and_again_to_the_next_camera() -> None:
    device = running()

    adopted = device.feed(Adopted((assignment(),), (SHADOW,)))
    fetched = device.feed(ModelFetched(NEXT.digest, NEXT))
    waiting = stat(device)
    ready = device.feed(READY)
    device.well.append(READY)
    device.feed(Exited(CAMERA, -9))
    again = device.wait(1.0)

    assert adopted == [FetchModel(NEXT.digest)]
    assert fetched == [StartEngine(ENGINE, NEXT)]
    assert waiting == ShadowStat(model="parts/2", state="waiting")
    assert ready == [ShadowCamera(CAMERA, SHADOW, NEXT)]
    started = next(action for action in again if isinstance(action, StartCamera))
    assert (started.assignment, started.manifests) == (assignment(), (MANIFEST,))
    assert again[-1] == ShadowCamera(CameraId("door", 2), SHADOW, NEXT)


def test_a_shadow_ends_with_the_desired_state() -> None:
    device = shadowed()

    assert device.feed(Adopted((assignment(),))) == [ShadowCamera(CAMERA, None)]
    assert stat(device) is None


def test_a_shadow_that_can_never_work_is_told_and_disturbs_nothing() -> None:
    device = running()

    device.feed(Adopted((assignment(),), (SHADOW,)), ModelRefused(NEXT.digest, "opset 99", permanent=True))

    assert stat(device) == ShadowStat(model="parts/2", state="failed", reason="opset 99")
    assert device.state is ObservedState.RUNNING


def test_the_figures_are_of_the_pipelines_that_are_to_use_a_model() -> None:
    device = shadowed()
    report = says(emitted=5).report
    assert isinstance(report, CameraReport)
    report = replace(report, shadow=ShadowCounts(frames=3, boxes=2))
    device.feed(Reported(CAMERA, report))
    device.feed(Exited(ENGINE, -11))

    assert device.core.figures({"0" * 64}, device.now) == ()
    assert device.core.figures({DIGEST}, device.now) == (
        PipelineFigures(
            pipeline_id="door",
            at=0.0,
            model=DIGEST,
            shadow=ShadowStat(
                model="parts/2",
                state="running",
                reason="the engine process was ended by SIGSEGV",
                crashes=1,
                counts=ShadowCounts(frames=3, boxes=2),
            ),
        ),
    )


def test_why_its_engine_crashed_is_told_also_when_another_one_is_ready() -> None:
    device = shadowed()
    device.feed(Exited(ENGINE, -11))
    device.wait(2.0)

    device.feed(Reported(EngineId(NEXT.digest, 2), EngineReport("ready", "", 1, 0.0)))
    found = stat(device)

    assert found is not None
    assert (found.crashes, found.reason) == (1, "the engine process was ended by SIGSEGV")


def test_crashes_from_before_are_no_fault_of_the_shadow() -> None:
    device = shadowed()
    device.feed(Exited(ENGINE, -11))
    first = stat(device)

    device.feed(Adopted((assignment(),)))
    device.feed(Adopted((assignment(),), (replace(SHADOW, share=0.5),)))
    second = stat(device)

    assert first is not None
    assert second is not None
    assert (first.crashes, second.crashes) == (1, 0)
