"""Another model takes over in a running camera, and the former one goes on until then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_core.protocol.values import (
    Assignment,
    DesiredStatus,
    Manifest,
    ModelRef,
    ObservedState,
    Stage,
)
from streamfleet_worker.decisions.pipeline_table import PipelineView
from streamfleet_worker.decisions.reconcile_actions import (
    ChangeCamera,
    FetchModel,
    Persist,
    StartCamera,
    StartEngine,
    StopChild,
)
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    BrokerAbsent,
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

NEXT = replace(MANIFEST, labels=("person", "truck"))
NEXT_ENGINE = EngineId(NEXT.digest, 1)
FORMER = assignment().spec.ordered_models
READER = replace(MANIFEST, labels=("a", "b"))


def with_next(generation: int = 2, desired_status: DesiredStatus = "run", **changes: object) -> Assignment:
    known = assignment(generation, desired_status)
    spec = replace(known.spec, model=ModelRef("parts/2", NEXT.digest), **changes)  # type: ignore[arg-type]
    return replace(known, spec=spec)


def as_former(generation: int, told: Assignment) -> Assignment:
    """The same, under the former model and this generation."""
    spec = replace(told.spec, model=assignment().spec.model)
    return replace(told, generation=generation, spec=spec)


def next_says(state: str = "ready", reason: str = "") -> Reported:
    return Reported(NEXT_ENGINE, EngineReport(state, reason, 1, 0.0))  # type: ignore[arg-type]


def view(device: Device) -> PipelineView:
    (found,) = device.core.pipelines(device.now)
    return found


def waiting() -> Device:
    """A device whose pipeline is to use another model, which is fetched."""
    device = running()
    device.feed(Adopted((with_next(),)), ModelFetched(NEXT.digest, NEXT))
    return device


def test_the_former_model_goes_on_until_the_next_one_is_ready() -> None:
    device = running()

    adopted = device.feed(Adopted((with_next(),)))
    fetching = device.observed[0]
    fetched = device.feed(ModelFetched(NEXT.digest, NEXT))
    loading = device.feed(next_says("loading"), says(generation=1, emitted=2))
    ready = device.feed(next_says())
    before = (device.observed[0], view(device).model.id)
    device.feed(says(generation=2, emitted=3))
    after = (device.observed[0], view(device).model.id)

    assert adopted == [Persist(row_of(with_next(), 1, FORMER)), FetchModel(NEXT.digest)]
    assert {each.digest: each.model for each in device.core.engines()} == {
        DIGEST: "parts/1",
        NEXT.digest: "parts/2",
    }
    assert fetched == [StartEngine(NEXT_ENGINE, NEXT)]
    assert loading == []
    assert ready == [Persist(row_of(with_next(), 1)), ChangeCamera(CAMERA, with_next(), (NEXT,))]
    assert (fetching.generation, fetching.state) == (1, ObservedState.RUNNING)
    assert fetching.reason == "model parts/1 goes on until model parts/2 is ready: fetching model parts/2"
    assert (before[0].generation, before[1]) == (1, "parts/1")
    assert (after[0].generation, after[0].reason, after[0].incarnation, after[1]) == (2, "", 1, "parts/2")


def test_the_engine_of_the_former_model_is_kept_while_it_serves_and_started_again_when_it_crashes() -> None:
    device = waiting()

    device.feed(Exited(ENGINE, -9))
    restarted = device.wait(1.0)

    assert StartEngine(EngineId(DIGEST, 2), MANIFEST) in restarted
    assert not any(isinstance(action, StopChild) for action in restarted)


@pytest.mark.parametrize("fails_at", ["fetching", "loading", "crashing"])
def test_a_model_that_cannot_work_leaves_the_former_one_in_use_and_says_why(fails_at: str) -> None:
    device = running()
    device.feed(Adopted((with_next(),)))
    if fails_at == "fetching":
        device.feed(ModelRefused(NEXT.digest, "opset 99", permanent=True))
    elif fails_at == "loading":
        device.feed(ModelFetched(NEXT.digest, NEXT), next_says("failed", "opset 99"), Exited(NEXT_ENGINE, 0))
    else:
        device.feed(ModelFetched(NEXT.digest, NEXT))
        for start in (1, 2, 3):
            device.feed(Exited(EngineId(NEXT.digest, start), -11))
            device.well = [engine_says(), says(generation=1, emitted=start)]
            device.wait(5.0)

    told = device.feed(says(generation=2, emitted=9))
    observed = device.observed[0]

    assert told == []
    assert (observed.state, observed.generation, observed.restarts) == (ObservedState.RUNNING, 2, 0)
    assert observed.crashes == 0  # the pipeline is not taken for one that crashes its devices
    assert observed.reason.startswith("model parts/1 goes on: model parts/2: ")
    assert (view(device).model.id, bool(view(device).model_trouble)) == ("parts/1", True)


def test_what_changes_meanwhile_is_in_effect_at_once() -> None:
    device = waiting()

    paused = device.feed(Adopted((with_next(3, "pause"),)))
    resumed = device.feed(Adopted((with_next(4, confidence=0.9),)))
    ready = device.feed(next_says())

    assert paused[1:] == [ChangeCamera(CAMERA, as_former(1, with_next(3, "pause")))]
    assert resumed[1:] == [ChangeCamera(CAMERA, as_former(1, with_next(4, confidence=0.9)))]
    assert ready[1:] == [ChangeCamera(CAMERA, with_next(4, confidence=0.9), (NEXT,))]


def test_after_a_failure_changes_are_confirmed_with_the_former_model() -> None:
    device = waiting()
    device.feed(next_says("failed", "opset 99"))
    device.feed(Exited(NEXT_ENGINE, 0))

    paused = device.feed(Adopted((with_next(3, "pause"),)))
    before = device.observed[0].generation
    device.feed(says(ObservedState.PAUSED, generation=3))

    stored = replace(row_of(with_next(3, "pause"), 1, FORMER), served=3)
    assert paused[1:] == [Persist(stored), ChangeCamera(CAMERA, as_former(3, with_next(3, "pause")))]
    assert (before, device.observed[0].generation) == (1, 3)


def test_a_camera_that_crashes_meanwhile_starts_again_with_the_former_model() -> None:
    device = waiting()

    device.feed(Exited(CAMERA, -9))
    started = device.wait(1.0)

    assert started[-1] == StartCamera(CameraId("door", 2), as_former(1, with_next()), (MANIFEST,))


def test_a_paused_camera_starts_anew_with_the_next_model() -> None:
    device = waiting()
    device.feed(Adopted((with_next(3, "pause"),)), says(ObservedState.PAUSED))

    ready = device.feed(next_says())
    ended = device.feed(Exited(CAMERA, 0))

    assert ready == [StopChild(CAMERA)]
    assert ended[1:] == [StartCamera(CameraId("door", 2), with_next(3, "pause"), (NEXT,))]


def test_the_former_model_can_be_taken_back_before_the_next_one_is_ready() -> None:
    device = waiting()

    back = device.feed(Adopted((assignment(3),)))

    assert back == [Persist(row_of(assignment(3), 1)), ChangeCamera(CAMERA, assignment(3))]


def test_a_pipeline_whose_model_could_not_work_runs_with_another_one() -> None:
    device = Device()
    device.feed(Adopted((assignment(),)), ModelRefused(DIGEST, "opset 99", permanent=True))
    failed = device.state

    device.feed(Adopted((with_next(),)))
    started = device.feed(ModelFetched(NEXT.digest, NEXT))

    assert failed is ObservedState.FAILED
    assert started[-1] == StartCamera(CAMERA, with_next(), (NEXT,))


def test_after_a_power_failure_the_former_model_runs_until_the_next_one_is_ready() -> None:
    device = running()
    stored = [each.row for each in device.feed(Adopted((with_next(),))) if isinstance(each, Persist)]

    again = Device(*stored)
    started = again.feed(Unfenced(), Adopted((with_next(),)), ModelFetched(DIGEST, MANIFEST))
    again.feed(engine_says(), says(generation=1, camera=CameraId("door", 2)))
    reason = again.observed[0].reason
    again.feed(ModelFetched(NEXT.digest, NEXT))
    taken_over = again.feed(next_says())

    assert started[-1] == StartCamera(CameraId("door", 2), as_former(1, with_next()), (MANIFEST,))
    assert reason == "model parts/1 goes on until model parts/2 is ready: fetching model parts/2"
    assert taken_over == [
        Persist(row_of(with_next(), 2)),
        ChangeCamera(CameraId("door", 2), with_next(), (NEXT,)),
    ]


def test_after_a_power_failure_the_former_model_goes_on_if_the_next_one_can_never_work() -> None:
    device = running()
    stored = [each.row for each in device.feed(Adopted((with_next(),))) if isinstance(each, Persist)]

    again = Device(*stored)
    again.feed(Adopted((with_next(),)), ModelRefused(NEXT.digest, "opset 99", permanent=True))
    started = again.feed(ModelFetched(DIGEST, MANIFEST))

    assert started[-1] == StartCamera(CameraId("door", 2), as_former(2, with_next()), (MANIFEST,))
    assert view(again).model_trouble == "opset 99"


def test_after_a_power_failure_the_broker_is_not_needed_for_the_former_model() -> None:
    device = running()
    stored = [each.row for each in device.feed(Adopted((with_next(),))) if isinstance(each, Persist)]

    again = Device(*stored)
    again.feed(BrokerAbsent())
    started = again.feed(ModelFetched(DIGEST, MANIFEST))

    assert started[-1] == StartCamera(CameraId("door", 2), as_former(1, with_next()), (MANIFEST,))


def test_after_the_swap_a_power_failure_does_not_bring_the_former_model_back() -> None:
    device = waiting()
    stored = [each.row for each in device.feed(next_says()) if isinstance(each, Persist)]

    again = Device(*stored)
    wanted = again.feed(Adopted((with_next(),)))
    started = again.feed(ModelFetched(NEXT.digest, NEXT))

    assert wanted[1:] == [FetchModel(NEXT.digest)]
    assert started[-1] == StartCamera(CameraId("door", 2), with_next(), (NEXT,))


def test_a_run_that_begins_anew_begins_with_its_own_models() -> None:
    device = running()
    stored = [each.row for each in device.feed(Adopted((with_next(),))) if isinstance(each, Persist)]
    anew = replace(with_next(3), run_generation=3)

    adopted = Device(*stored).feed(Adopted((anew,)))

    assert adopted == [Persist(row_of(anew, 1, ())), FetchModel(NEXT.digest)]


def with_stage(generation: int, reader: Manifest, first: Manifest = MANIFEST) -> Assignment:
    """A pipeline with a stage that reads what the first model finds."""
    known = assignment(generation)
    names = {MANIFEST.digest: "parts/1", NEXT.digest: "parts/2", READER.digest: "reader/2"}
    stage = Stage(name="text", model=ModelRef(names[reader.digest], reader.digest))
    model = ModelRef(names[first.digest], first.digest)
    return replace(known, spec=replace(known.spec, model=model, stages=(stage,)))


def reader_says(state: str = "ready") -> Reported:
    return Reported(EngineId(READER.digest, 1), EngineReport(state, "", 1, 0.0))  # type: ignore[arg-type]


def test_another_model_of_a_stage_takes_over_and_the_camera_goes_on() -> None:
    device = running(with_stage(1, MANIFEST))

    adopted = device.feed(Adopted((with_stage(2, READER),)))
    device.feed(ModelFetched(READER.digest, READER), says(generation=1, emitted=2))
    waits = device.observed[0]
    ready = device.feed(reader_says())
    device.feed(says(generation=2, emitted=3))

    assert adopted == [
        Persist(row_of(with_stage(2, READER), 1, with_stage(1, MANIFEST).spec.ordered_models)),
        FetchModel(READER.digest),
    ]
    assert waits.reason == "model parts/1 goes on until model reader/2 is ready"
    assert ready[1:] == [ChangeCamera(CAMERA, with_stage(2, READER), (None, READER))]
    assert (device.observed[0].generation, device.observed[0].restarts, device.observed[0].incarnation) == (
        2,
        0,
        1,
    )


def test_models_that_change_together_take_over_together() -> None:
    device = running(with_stage(1, MANIFEST))
    device.feed(Adopted((with_stage(2, READER, NEXT),)))
    device.feed(ModelFetched(READER.digest, READER), ModelFetched(NEXT.digest, NEXT))

    first_ready = device.feed(next_says())
    both_ready = device.feed(reader_says())

    assert first_ready == []
    assert both_ready[1:] == [ChangeCamera(CAMERA, with_stage(2, READER, NEXT), (NEXT, READER))]


def test_if_one_of_them_can_never_work_all_former_models_go_on() -> None:
    device = running(with_stage(1, MANIFEST))
    device.feed(Adopted((with_stage(2, READER, NEXT),)), ModelFetched(NEXT.digest, NEXT), next_says())

    told = device.feed(ModelRefused(READER.digest, "opset 99", permanent=True))
    device.feed(says(generation=2, emitted=2))
    observed = device.observed[0]

    former = with_stage(1, MANIFEST)
    stored = replace(row_of(with_stage(2, READER, NEXT), 1, former.spec.ordered_models), served=2)
    assert told == [Persist(stored), ChangeCamera(CAMERA, replace(former, generation=2))]
    assert (observed.state, observed.generation) == (ObservedState.RUNNING, 2)
    assert observed.reason == "model parts/1 goes on: model reader/2: opset 99"
    assert (view(device).model.id, view(device).model_trouble) == ("parts/1", "model reader/2: opset 99")


def test_a_camera_waits_for_the_former_model_if_the_next_one_must_load_again_as_it_starts() -> None:
    device = waiting()
    device.feed(next_says("loading"), Exited(CAMERA, -11), next_says(), Exited(ENGINE, 0))
    device.now += 1.5  # the camera is due

    outdated = device.feed(Reported(NEXT_ENGINE, EngineReport("ready", "", 1, 0.0, outdated=True)))
    later = device.wait(0.2)

    assert outdated == [StopChild(NEXT_ENGINE)]
    assert FetchModel(DIGEST) in later
