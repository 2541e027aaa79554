"""When a child is stuck, and how it is stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import Observed, ObservedState, SourceSpec
from streamfleet_worker.decisions.reconcile_actions import KillChild, Persist, StartCamera, StopChild
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    CameraId,
    Exited,
    ModelFetched,
    Reported,
    Unfenced,
)
from tests.fakes.peers import MANIFEST
from tests.fakes.reconciling import CAMERA, DIGEST, Device, assignment, engine_says, row_of, running, says


def test_a_stop_is_asked_for_and_after_a_second_forced_and_then_confirmed() -> None:
    device = running()
    device.well.append(says())

    asked = device.feed(Adopted((assignment(2, "stop"),)))
    stopping = device.observed
    waited = device.wait(1.0)
    device.feed(Exited(CAMERA, -9))

    assert asked == [
        Persist(row_of(assignment(2, "stop"), 1)),
        StopChild(CAMERA),
    ]
    assert stopping == (
        Observed(pipeline_id="door", generation=2, incarnation=1, state=ObservedState.STOPPING),
    )
    assert waited == [KillChild(CAMERA, "it did not stop when it was asked")]
    assert device.observed == ()


def test_a_camera_that_falls_silent_is_killed_and_started_again() -> None:
    device = running()

    killed = device.wait(5)
    state = device.state
    device.feed(Exited(CAMERA, -9))
    again = device.wait(1)

    assert killed == [KillChild(CAMERA, "no report for 5 s")]
    assert state is ObservedState.CRASHED
    assert StartCamera(CameraId("door", 2), assignment(), (MANIFEST,)) in again


def test_a_camera_that_never_speaks_is_killed_after_thirty_seconds() -> None:
    device = Device()
    device.feed(Unfenced(), Adopted((assignment(),)), ModelFetched(DIGEST, MANIFEST), engine_says())
    device.well.append(engine_says())

    assert device.wait(29.9) == []
    assert device.wait(0.1) == [KillChild(CAMERA, "no sign of life for 30 s after its start")]


def test_a_camera_that_says_it_runs_and_emits_nothing_is_killed() -> None:
    device = running()
    device.well.append(says(emitted=7))

    assert device.wait(10.1) == [KillChild(CAMERA, "it reports that it runs, but emitted nothing for 10 s")]


def test_a_camera_without_motion_moves_on_while_it_counts_still_frames() -> None:
    device = running()
    still = SourceStat(source_id=0, reference="door", state="RUNNING")
    device.well.append(says(emitted=7))

    for count in range(1, 6):
        device.well[-1] = says(emitted=7, sources=(replace(still, dropped={"still": count}),))
        assert device.wait(9) == []

    assert device.wait(2) == [KillChild(CAMERA, "it reports that it runs, but emitted nothing for 10 s")]


@pytest.mark.parametrize(
    "report",
    [
        says(emitted=7, waiting=True),
        says(ObservedState.PAUSED),
        says(ObservedState.RECONNECTING),
        says(ObservedState.STARTING),
    ],
)
def test_a_camera_that_is_not_to_blame_is_left_alone(report: Reported) -> None:
    device = running()
    device.well.append(report)

    assert device.wait(60) == []


def test_a_camera_may_be_as_slow_as_it_was_told_to_be() -> None:
    slow = replace(assignment(), spec=replace(assignment().spec, max_fps=0.1))
    device = running(slow)
    device.well.append(says(emitted=7))

    assert device.wait(29) == []


def test_of_several_sources_the_fastest_that_runs_says_how_slow_a_camera_may_be() -> None:
    sources = (SourceSpec("rtsp://h/door", max_fps=0.1), SourceSpec("rtsp://h/gate"))
    device = running(replace(assignment(), spec=replace(assignment().spec, sources=sources)))
    slow, fast = (
        SourceStat(source_id=0, reference="door", state="RUNNING"),
        SourceStat(source_id=1, reference="gate", state="RUNNING"),
    )
    lost = replace(fast, state="INITIALISING")
    device.well.append(says(emitted=7, sources=(slow, lost)))

    only_the_slow_one = device.wait(29)
    device.well[-1] = says(emitted=8, sources=(slow, fast))
    both = device.wait(10.2)

    assert only_the_slow_one == []
    assert both == [KillChild(CAMERA, "it reports that it runs, but emitted nothing for 10 s")]


def test_whoever_slept_blames_nobody() -> None:
    device = running()
    device.well.append(says(ObservedState.PAUSED))
    device.wait(1)

    device.now += 60

    assert device.core.tick(device.now) == []
