"""What is fetched, which engine runs, and which model cannot work."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_core.protocol.values import ModelRef, Observed, ObservedState, Variant, Weights
from streamfleet_worker.decisions.reconcile_actions import (
    CancelFetch,
    FetchModel,
    KillChild,
    Persist,
    StartCamera,
    StartEngine,
    StopChild,
)
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    CameraId,
    EngineId,
    Exited,
    ModelFetched,
    ModelRefused,
    Reported,
    Unfenced,
)
from streamfleet_worker.ipc.child_messages import EngineReport
from tests.fakes.peers import MANIFEST
from tests.fakes.reconciling import (
    CAMERA,
    DIGEST,
    ENGINE,
    Device,
    assignment,
    engine_says,
    row_of,
    running,
    says,
)


def test_another_model_is_fetched_while_the_old_camera_ends_and_its_engine_goes_when_it_is_cold() -> None:
    device = running()
    other = replace(
        assignment(2, run_generation=2), spec=replace(assignment().spec, model=ModelRef("parts/2", "2" * 64))
    )
    engine, camera = EngineId("2" * 64, 1), CameraId("door", 2)

    asked = device.feed(Adopted((other,)))
    ended = device.feed(Exited(CAMERA, 0))
    fetched = device.feed(ModelFetched("2" * 64, MANIFEST))
    report = EngineReport("ready", "", 1, 0.0)
    device.well += [Reported(engine, report), says(ObservedState.PAUSED, generation=2, camera=camera)]
    cold = device.wait(30.2)

    assert asked == [
        Persist(row_of(other, 1, ())),
        FetchModel("2" * 64),
        StopChild(CAMERA),
    ]
    assert ended == []
    assert fetched == [
        StartEngine(engine, MANIFEST),
        Persist(row_of(other, 2)),
        StartCamera(camera, other, (MANIFEST,)),
    ]
    assert cold == [StopChild(ENGINE)]


def test_an_engine_whose_inference_never_ends_is_killed_and_its_cameras_stay() -> None:
    device = running()
    device.well = [device.well[0], says(waiting=True)]

    killed = device.feed(engine_says(oldest_run=10.5)) + device.core.tick(0.1)
    device.feed(Exited(ENGINE, -9))
    again = device.wait(1)

    assert killed == [KillChild(ENGINE, "an inference has taken 10 s")]
    assert again == [StartEngine(EngineId(DIGEST, 2), MANIFEST)]
    assert device.observed[0].reason == "an inference has taken 10 s"


def test_an_engine_that_cannot_load_its_model_fails_its_pipelines_until_the_spec_changes() -> None:
    device = Device()
    device.feed(
        Unfenced(), Adopted((assignment(),)), ModelFetched(DIGEST, MANIFEST), says(ObservedState.STARTING)
    )

    failed = device.feed(engine_says("failed", "opset 99"))
    device.feed(Exited(CAMERA, 0), Exited(ENGINE, 0))
    later = device.wait(60) + device.feed(Adopted((assignment(2, "pause"),)))
    observed = device.observed
    changed = device.feed(Adopted((assignment(3, run_generation=3),)))

    assert failed == [StopChild(ENGINE), StopChild(CAMERA)]
    assert later == [Persist(row_of(assignment(2, "pause"), 1))]
    assert observed == (
        Observed(
            pipeline_id="door",
            generation=2,
            incarnation=1,
            state=ObservedState.FAILED,
            reason="model parts/1: opset 99",
        ),
    )
    assert FetchModel(DIGEST) in changed


def lose_engine(device: Device, code: int, *, run: int, report: EngineReport, after: float = 0.0) -> None:
    """The engine of that run says this last, and ends so."""
    child = EngineId(DIGEST, run)
    device.feed(Reported(child, report))
    device.well = [device.well[0], says(waiting=True), Reported(child, report)]
    device.wait(after)
    device.well.pop()
    device.feed(Exited(child, code))
    device.wait(3)


READY = EngineReport("ready", "", 1, 0.0)

LOADING = EngineReport("loading", "", 0, 0.0)


@pytest.mark.parametrize("report", [READY, LOADING])
@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGABRT])
def test_a_model_that_ends_its_engine_three_times_in_a_row_cannot_work(
    report: EngineReport, code: int
) -> None:
    device = running()
    for run in (1, 2):
        lose_engine(device, code, run=run, report=report)
    before = device.state

    lose_engine(device, code, run=3, report=report)

    assert before is ObservedState.RUNNING
    assert device.state is ObservedState.FAILED
    assert device.observed[0].reason == (
        f"model parts/1: the engine process was ended by {signal.Signals(-code).name}, 3 times in a row"
    )
    assert device.observed[0].crashes == 3
    assert not [child for child in device.core.children() if isinstance(child, EngineId)]


def test_a_model_whose_inferences_never_end_cannot_work() -> None:
    device = running()

    for run in (1, 2, 3):
        lose_engine(device, -signal.SIGKILL, run=run, report=replace(READY, oldest_run=10.5), after=0.1)

    assert device.observed[0].reason == ("model parts/1: an inference has taken 10 s, 3 times in a row")


def test_a_model_whose_inferences_all_fail_cannot_work() -> None:
    device = running()

    for run in (1, 2, 3):
        lose_engine(device, -signal.SIGKILL, run=run, report=replace(READY, reason="no memory"), after=0.1)

    assert device.observed[0].reason == ("model parts/1: every inference fails: no memory, 3 times in a row")


def test_a_model_that_takes_too_long_to_load_is_not_loaded_again() -> None:
    device = running()

    lose_engine(device, -signal.SIGXCPU, run=1, report=LOADING)

    assert device.state is ObservedState.FAILED
    assert "an inference 10 s" in device.observed[0].reason


@pytest.mark.parametrize(
    ("code", "after"), [(-signal.SIGKILL, 0.0), (1, 0.0), (None, 0.0), (-signal.SIGSEGV, 61.0)]
)
def test_an_engine_that_somebody_ends_or_that_was_well_for_long_is_started_again(
    code: int, after: float
) -> None:
    device = running()

    for run in range(1, 6):
        lose_engine(device, code, run=run, report=READY, after=after)

    assert device.state is ObservedState.RUNNING
    assert device.observed[0].crashes == (1 if after else 0)


def with_variant() -> tuple[Device, Variant]:
    """A device whose engine runs a variant."""
    variant = Variant(
        board="a board",
        provider="CPUExecutionProvider",
        precision="int8",
        weights=Weights("3" * 64, 1),
        speedup=2,
        agreement=0.99,
    )
    device = Device()
    started = device.feed(Unfenced(), Adopted((assignment(),)), ModelFetched(DIGEST, MANIFEST, variant))
    assert StartEngine(ENGINE, MANIFEST, variant) in started
    return device, variant


def test_a_variant_that_ends_its_engine_is_given_up_and_the_model_itself_runs() -> None:
    device, variant = with_variant()

    started = []
    for run in (1, 2, 3):
        device.feed(Exited(EngineId(DIGEST, run), -signal.SIGSEGV))
        device.well = [says(ObservedState.STARTING)]
        started += device.wait(8)
    device.feed(Reported(EngineId(DIGEST, 4), READY))

    assert started == [
        StartEngine(EngineId(DIGEST, 2), MANIFEST, variant),
        StartEngine(EngineId(DIGEST, 3), MANIFEST, variant),
        StartEngine(EngineId(DIGEST, 4), MANIFEST),
    ]
    (stat,) = device.core.engines()
    assert (stat.state, stat.variant) == ("ready", "")
    assert stat.variant_trouble == "the engine process was ended by SIGSEGV, 3 times in a row"


def test_a_variant_that_takes_too_long_to_load_is_given_up_at_once() -> None:
    device, _ = with_variant()

    device.feed(Exited(ENGINE, -signal.SIGXCPU))
    device.well = [says(ObservedState.STARTING)]

    assert device.wait(8) == [StartEngine(EngineId(DIGEST, 2), MANIFEST)]


def test_an_engine_gets_a_minute_and_a_half_to_load() -> None:
    device = running()
    device.well = [device.well[0], says(waiting=True)]
    device.feed(engine_says("loading"))

    assert device.wait(89) == []
    assert device.wait(2) == [KillChild(ENGINE, "no report for 90 s")]


def test_a_model_whose_file_is_damaged_is_fetched_again() -> None:
    device = running()
    device.well = [device.well[0], says(waiting=True)]

    stopped = device.feed(engine_says("damaged", "expected sha256 …"))
    fetched = device.feed(Exited(ENGINE, 0))
    device.feed(ModelFetched(DIGEST, MANIFEST))
    again = device.wait(1)

    assert stopped == [StopChild(ENGINE)]
    assert fetched == [FetchModel(DIGEST)]
    assert again == [StartEngine(EngineId(DIGEST, 2), MANIFEST)]
    assert device.state is ObservedState.RUNNING


def test_a_model_that_is_not_there_fails_its_pipelines_and_one_that_may_come_does_not() -> None:
    device = Device()
    device.feed(Unfenced(), Adopted((assignment(),)))

    device.feed(ModelRefused(DIGEST, "the api is away", permanent=False))
    waiting = device.observed
    device.feed(ModelRefused(DIGEST, "HTTP 404", permanent=True))

    reason = "fetching model parts/1: the api is away"
    assert waiting == (
        Observed(
            pipeline_id="door", generation=1, incarnation=0, state=ObservedState.STARTING, reason=reason
        ),
    )
    assert device.observed == (
        Observed(
            pipeline_id="door",
            generation=1,
            incarnation=0,
            state=ObservedState.FAILED,
            reason="model parts/1: HTTP 404",
        ),
    )


def test_an_engine_stays_warm_for_half_a_minute() -> None:
    device = running()
    device.feed(Adopted((assignment(2, "stop"),)), Exited(CAMERA, 0))

    assert device.wait(29.9) == []
    assert device.wait(0.2) == [StopChild(ENGINE)]


def test_a_model_that_nobody_wants_any_more_is_not_fetched() -> None:
    device = Device()
    device.feed(Unfenced(), Adopted((assignment(),)))

    assert CancelFetch(DIGEST) in device.feed(Adopted(()))


LACKING = MissingAccelerator(
    "the installed ONNX Runtime has no kernels for this GPU", "use JetPack's TensorRT"
)


def test_what_runs_a_model_is_in_the_status_with_an_accelerator_that_is_missing() -> None:
    device = running()
    device.feed(Reported(ENGINE, replace(READY, provider="CPUExecutionProvider", missing=LACKING)))
    (lacking,), missing = device.core.engines(), device.core.missing_accelerator()

    device.feed(Reported(ENGINE, replace(READY, provider="CUDAExecutionProvider")))
    (healthy,), none = device.core.engines(), device.core.missing_accelerator()

    assert (lacking.provider, lacking.missing_accelerator) == ("CPUExecutionProvider", LACKING)
    assert missing == LACKING
    assert (healthy.provider, healthy.missing_accelerator, none) == ("CUDAExecutionProvider", None, None)


def test_a_required_accelerator_that_is_missing_fails_the_model_and_stays_in_the_status() -> None:
    device = Device()
    device.feed(
        Unfenced(), Adopted((assignment(),)), ModelFetched(DIGEST, MANIFEST), says(ObservedState.STARTING)
    )

    failure = EngineReport("failed", "an accelerator is required: …", 0, 0.0, missing=LACKING)
    device.feed(Reported(ENGINE, LOADING), Reported(ENGINE, failure), Exited(CAMERA, 0), Exited(ENGINE, 0))

    assert device.state is ObservedState.FAILED
    assert device.observed[0].reason == "model parts/1: an accelerator is required: …"
    assert device.core.missing_accelerator() == LACKING


def test_an_engine_that_another_would_replace_on_a_better_accelerator_is_replaced_at_once() -> None:
    device = running()

    asked = device.feed(Reported(ENGINE, replace(READY, outdated=True)))
    ended = device.feed(Exited(ENGINE, 0))

    assert asked == [StopChild(ENGINE)]
    assert ended == [StartEngine(EngineId(DIGEST, 2), MANIFEST)]
    assert device.core.engines()[0].restarts == 0
    assert device.state is ObservedState.RUNNING
