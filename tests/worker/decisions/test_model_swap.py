"""Another model takes over in a running camera, and the former one goes on until then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_core.protocol.values import Assignment, DesiredStatus, ModelRef, ObservedState
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
    CameraId,
    EngineId,
    Exited,
    ModelFetched,
    ModelRefused,
    Reported,
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

    assert adopted == [Persist(row_of(with_next(), 1)), FetchModel(NEXT.digest)]
    assert fetched == [StartEngine(NEXT_ENGINE, NEXT)]
    assert loading == []
    assert ready == [ChangeCamera(CAMERA, with_next(), NEXT)]
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
    assert ready == [ChangeCamera(CAMERA, with_next(4, confidence=0.9), NEXT)]


def test_after_a_failure_changes_are_confirmed_with_the_former_model() -> None:
    device = waiting()
    device.feed(next_says("failed", "opset 99"))
    device.feed(Exited(NEXT_ENGINE, 0))

    paused = device.feed(Adopted((with_next(3, "pause"),)))
    before = device.observed[0].generation
    device.feed(says(ObservedState.PAUSED, generation=3))

    assert paused[1:] == [ChangeCamera(CAMERA, as_former(3, with_next(3, "pause")))]
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
