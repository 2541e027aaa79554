"""Which camera runs, and what the broker and the status are told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_core.protocol.control_plane import Envelope, encode
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY
from streamfleet_core.protocol.messages import Hello
from streamfleet_core.protocol.values import Assignment, Observed, ObservedState
from streamfleet_worker.decisions.reconcile_actions import (
    ChangeCamera,
    FetchModel,
    Forget,
    Persist,
    Refuse,
    ShowPictures,
    StartCamera,
    StartPublisher,
    StopChild,
)
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    BrokerAbsent,
    CameraId,
    Exited,
    Fenced,
    ModelFetched,
    ModelRefused,
    PublisherId,
    Reported,
    Row,
    Stored,
    Unfenced,
)
from streamfleet_worker.ipc.child_messages import PublisherReport
from tests.fakes.peers import MANIFEST, spec
from tests.fakes.reconciling import (
    CAMERA,
    DIGEST,
    Device,
    assignment,
    engine_says,
    movable,
    row_of,
    running,
    says,
)


def test_pause_and_resume_change_the_living_camera() -> None:
    device = running()

    paused = device.feed(Adopted((assignment(2, "pause"),)))
    before = device.observed
    device.feed(says(ObservedState.PAUSED, generation=2))
    after = device.observed
    resumed = device.feed(Adopted((assignment(3),)))

    assert paused == [
        Persist(row_of(assignment(2, "pause"), 1)),
        ChangeCamera(CAMERA, assignment(2, "pause")),
    ]
    assert before == (Observed(pipeline_id="door", generation=1, incarnation=1, state=ObservedState.RUNNING),)
    assert after == (Observed(pipeline_id="door", generation=2, incarnation=1, state=ObservedState.PAUSED),)
    assert resumed == [
        Persist(row_of(assignment(3), 1)),
        ChangeCamera(CAMERA, assignment(3)),
    ]


def test_what_can_change_while_it_plays_is_told_to_the_living_camera() -> None:
    device = running()
    stricter = replace(assignment(2), spec=spec("rtsp://h/door", confidence=0.9, max_fps=5))

    changed = device.feed(Adopted((stricter,)))
    before = device.observed
    device.feed(says(generation=2))

    assert changed == [
        Persist(row_of(stricter, 1)),
        ChangeCamera(CAMERA, stricter),
    ]
    assert before == (Observed(pipeline_id="door", generation=1, incarnation=1, state=ObservedState.RUNNING),)
    assert device.observed == (
        Observed(pipeline_id="door", generation=2, incarnation=1, state=ObservedState.RUNNING),
    )


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(assignment(2), on_disconnect="stop"), id="on_disconnect"),
        pytest.param(replace(assignment(2), spec=spec("rtsp://h/gate")), id="source"),
    ],
)
def test_what_a_camera_learns_at_its_start_only_makes_a_new_one_that_goes_on(changed: Assignment) -> None:
    device = running()

    asked = device.feed(Adopted((changed,)))
    ended = device.feed(Exited(CAMERA, 0))

    assert asked == [
        Persist(row_of(changed, 1)),
        StopChild(CAMERA),
    ]
    assert ended == [
        Persist(row_of(changed, 2)),
        StartCamera(CameraId("door", 2), changed, (MANIFEST,)),
    ]
    assert device.observed[0].restarts == 0


def looks(*watched: str, publisher: int = 1) -> Reported:
    return Reported(PublisherId(publisher), PublisherReport(0, 0, 0, watched))


def test_a_camera_makes_pictures_only_while_somebody_looks() -> None:
    device = running()

    elsewhere = device.feed(looks("gate/"))
    first = device.feed(looks("door/", "gate/"))
    same = device.feed(looks("door/"))
    nobody = device.feed(looks())

    assert (elsewhere, same) == ([], [])
    assert first == [ShowPictures(CAMERA, True)]
    assert nobody == [ShowPictures(CAMERA, False)]


def test_a_camera_that_starts_later_is_told_that_somebody_looks() -> None:
    device = running()
    device.feed(looks(""))

    device.feed(Exited(CAMERA, -9))
    again = device.wait(0.4)
    device.well[0] = looks("")
    again += device.wait(0.2)

    assert again[-2:] == [
        StartCamera(CameraId("door", 2), assignment(), (MANIFEST,)),
        ShowPictures(CameraId("door", 2), True),
    ]


def test_without_a_publisher_nobody_looks() -> None:
    device = running()
    device.feed(looks("door/"))

    gone = device.feed(Exited(PublisherId(1), -9))
    device.well[0] = looks("door/", publisher=2)
    back = device.wait(1)

    assert gone == [ShowPictures(CAMERA, False)]
    assert back == [StartPublisher(PublisherId(2)), ShowPictures(CAMERA, True)]


def test_a_new_spec_is_played_anew_when_the_old_camera_has_ended() -> None:
    device = running()
    changed = assignment(2, run_generation=2)

    asked = device.feed(Adopted((changed,)))
    ended = device.feed(Exited(CAMERA, 0))

    assert asked == [
        Persist(row_of(changed, 1, ())),
        StopChild(CAMERA),
    ]
    assert ended == [
        Persist(row_of(changed, 2)),
        StartCamera(CameraId("door", 2), changed, (MANIFEST,)),
    ]


def test_a_pipeline_that_is_gone_is_forgotten_once_it_has_ended() -> None:
    device = running()

    asked = device.feed(Adopted(()))
    ended = device.feed(Exited(CAMERA, 0))

    assert asked == [StopChild(CAMERA)]
    assert ended == [Forget("door")]


def test_nothing_is_forgotten_before_the_first_desired_state() -> None:
    device = Device(Row(pipeline_id="door", generation=3, run_generation=1, incarnation=5))

    assert device.feed(Unfenced()) == []
    assert device.feed(Adopted(())) == [Forget("door")]


def test_without_a_broker_what_continues_starts_as_stored_and_goes_on_when_the_broker_is_back() -> None:
    device = Device(row_of(assignment(3), 5))
    device.well += [engine_says()]

    before = device.feed(ModelFetched(DIGEST, MANIFEST))
    device.feed(BrokerAbsent())
    started = device.feed(ModelFetched(DIGEST, MANIFEST)) + device.wait(0.2)
    device.feed(says(generation=3, camera=CameraId("door", 6)))
    back = device.feed(Unfenced(), Adopted((assignment(3),)))

    assert before == []
    assert StartCamera(CameraId("door", 6), assignment(3), (MANIFEST,)) in started
    assert back == []
    assert device.state is ObservedState.RUNNING


def test_what_started_without_the_broker_stops_when_it_is_no_longer_desired() -> None:
    device = Device(row_of(assignment(3), 5))
    device.feed(BrokerAbsent(), ModelFetched(DIGEST, MANIFEST))
    device.feed(engine_says(), says(generation=3, camera=CameraId("door", 6)))

    gone = device.feed(Adopted(()))
    ended = device.feed(Exited(CameraId("door", 6), 0))

    assert StopChild(CameraId("door", 6)) in gone
    assert Forget("door") in ended


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(row_of(movable(3), 5), id="stops without the broker"),
        pytest.param(replace(row_of(assignment(3), 5), ended_run_generation=1), id="has ended"),
        pytest.param(row_of(assignment(3, "stop"), 5), id="is to be stopped"),
    ],
)
def test_without_a_broker_nothing_else_starts(stored: Row) -> None:
    device = Device(stored)

    actions = device.feed(BrokerAbsent(), ModelFetched(DIGEST, MANIFEST)) + device.wait(1)

    assert [action for action in actions if isinstance(action, StartCamera | FetchModel | Forget)] == []


def test_a_broker_that_answered_first_decides() -> None:
    device = Device(row_of(assignment(3), 5))

    device.feed(Adopted(()), BrokerAbsent())

    assert device.observed == ()


def test_a_lower_generation_is_refused_also_after_a_restart() -> None:
    device = Device(Row(pipeline_id="door", generation=3, run_generation=1, incarnation=5))

    assert device.feed(Unfenced(), Adopted((assignment(2),))) == [Refuse("door", 2, 3)]
    assert device.feed(Adopted((assignment(2),))) == [Refuse("door", 2, 3)]
    assert device.observed == ()


def test_a_lower_generation_leaves_what_runs_alone() -> None:
    device = running(assignment(3))

    assert device.feed(Adopted((assignment(2, "pause"),))) == [Refuse("door", 2, 3)]
    assert device.state is ObservedState.RUNNING


def test_an_ended_playing_is_never_started_again() -> None:
    device = running()

    ended = device.feed(says(ObservedState.ENDED, emitted=9))
    exited = device.feed(Exited(CAMERA, 0))
    row = replace(row_of(assignment(), 1), ended_run_generation=1)
    device.feed(Stored((row,)))
    later = device.wait(5) + device.feed(Adopted((assignment(2, "pause"),)), Adopted((assignment(3),)))

    assert ended == [Persist(row), StopChild(CAMERA)]
    assert exited == []
    assert later == [
        Persist(replace(row_of(assignment(2, "pause"), 1), ended_run_generation=1)),
        Persist(replace(row_of(assignment(3), 1), ended_run_generation=1)),
    ]
    assert device.observed == (
        Observed(pipeline_id="door", generation=3, incarnation=1, state=ObservedState.ENDED),
    )


def test_an_end_is_told_once_it_is_stored() -> None:
    """Or an agent that was killed between the two would play again what is known to have ended."""
    device = running()
    row = Row(pipeline_id="door", generation=1, run_generation=1, incarnation=1)

    device.feed(says(ObservedState.ENDED, emitted=9), Exited(CAMERA, 0), Stored((row,)))
    before = device.wait(5), device.state
    device.feed(Stored((replace(row, ended_run_generation=1),)))

    assert before == ([], ObservedState.RUNNING)
    assert device.state is ObservedState.ENDED


def test_what_is_started_again_while_an_end_is_being_stored_starts_at_once() -> None:
    device = running()
    device.feed(says(ObservedState.ENDED, emitted=9))

    device.feed(Adopted((assignment(2, run_generation=2),)), Exited(CAMERA, 0))

    assert device.state is ObservedState.STARTING


def test_an_ended_playing_is_not_started_after_a_restart_and_a_new_one_is() -> None:
    device = Device(
        Row(pipeline_id="door", generation=1, run_generation=1, incarnation=1, ended_run_generation=1)
    )

    same = device.feed(Unfenced(), Adopted((assignment(),)))
    state = device.state
    anew = device.feed(Adopted((assignment(2, run_generation=2),)))

    assert FetchModel(DIGEST) not in same
    assert state is ObservedState.ENDED
    assert FetchModel(DIGEST) in anew


def test_a_crash_is_seen_and_then_tried_again_with_a_new_incarnation() -> None:
    device = running()

    crashed = device.feed(Exited(CAMERA, -11))
    seen = device.observed
    device.wait(0.1)
    backoff = device.state
    again = device.wait(0.4)

    reason = "the camera process was ended by SIGSEGV"
    assert crashed == []
    assert seen == (
        Observed(
            pipeline_id="door",
            generation=1,
            incarnation=1,
            state=ObservedState.CRASHED,
            reason=reason,
            restarts=1,
            crashes=1,
        ),
    )
    assert backoff is ObservedState.BACKOFF
    assert again == [
        Persist(row_of(assignment(), 2)),
        StartCamera(CameraId("door", 2), assignment(), (MANIFEST,)),
    ]


def test_why_it_crashed_is_known_while_it_runs_again_and_forgotten_when_it_is_played_anew() -> None:
    device = running()
    device.feed(Exited(CAMERA, -11))
    device.wait(0.5)

    device.feed(says(camera=CameraId("door", 2)))
    (again,) = device.core.pipelines(device.now)
    device.feed(Adopted((assignment(2, run_generation=2),)))
    (anew,) = device.core.pipelines(device.now)

    assert (again.observed.state, again.observed.reason) == (ObservedState.RUNNING, "")
    assert (again.observed.restarts, again.last_crash) == (1, "the camera process was ended by SIGSEGV")
    assert (anew.observed.restarts, anew.last_crash) == (0, "")


@pytest.mark.parametrize(("code", "counted"), [(-11, 3), (1, 3), (0, 0), (-9, 0), (None, 0)])
def test_only_crashes_of_its_own_count_and_they_are_forgotten_after_a_minute_without_one(
    code: int | None, counted: int
) -> None:
    device = running()
    for run in (1, 2, 3):
        device.feed(Exited(CameraId("door", run), code))
        device.wait(3)
    before = device.observed[0]

    device.well = [says(camera=CameraId("door", 4))]
    device.wait(61)

    assert (before.crashes, before.restarts) == (counted, 3)
    assert (device.observed[0].crashes, device.observed[0].restarts) == (0, 3)


def test_a_camera_that_says_it_cannot_work_is_not_started_again() -> None:
    device = running()

    stopped = device.feed(says(ObservedState.FAILED, reason="no such option"))
    device.feed(Exited(CAMERA, 1))

    assert stopped == [StopChild(CAMERA)]
    assert device.wait(20) == []
    assert device.state is ObservedState.FAILED


def test_out_of_contact_movable_pipelines_stop_and_pinned_ones_go_on() -> None:
    device = Device()
    pinned = assignment(pipeline_id="gate")
    device.feed(Unfenced(), Adopted((movable(), pinned)), ModelFetched(DIGEST, MANIFEST))

    fenced = device.feed(Fenced())
    device.feed(Exited(CAMERA, 0))
    meanwhile = device.observed[0]
    unfenced = device.feed(Unfenced())

    assert fenced == [StopChild(CAMERA)]
    assert meanwhile.state is ObservedState.STARTING
    assert meanwhile.reason == "stopped until the broker is reachable again"
    assert unfenced == [
        Persist(row_of(movable(), 2)),
        StartCamera(CameraId("door", 2), movable(), (MANIFEST,)),
    ]


@pytest.mark.parametrize(("assigned", "leaving"), [(movable(), True), (assignment(), False)])
def test_the_fence_waits_for_movable_cameras_that_are_on_their_way_out(
    assigned: Assignment, leaving: bool
) -> None:
    device = running(assigned)
    assert not device.core.is_leaving()

    device.feed(Adopted(()))
    asked = device.core.is_leaving()
    device.feed(Exited(CAMERA, 0))

    assert asked is leaving
    assert not device.core.is_leaving()


def test_the_fence_waits_for_a_movable_camera_whatever_takes_its_place() -> None:
    device = running(movable())

    device.feed(Adopted((assignment(generation=2, run_generation=2),)))

    assert device.core.is_leaving()


def test_before_the_first_contact_only_pinned_pipelines_start() -> None:
    device = Device()

    assert FetchModel(DIGEST) not in device.feed(Adopted((movable(),)))
    assert FetchModel(DIGEST) in device.feed(Adopted((assignment(),)))


def test_a_reason_shows_no_password() -> None:
    device = running()

    device.feed(says(ObservedState.RECONNECTING, reason="cannot open rtsp://u:p@cam/1?key=2: timeout"))

    assert device.observed[0].reason == "cannot open rtsp://cam/1: timeout"


def test_what_a_full_device_says_fits_into_one_message() -> None:
    device = Device()
    names = [f"{number:064}" for number in range(128)]
    assignments = tuple(assignment(pipeline_id=name) for name in names)
    device.feed(Unfenced(), Adopted(assignments), ModelRefused(DIGEST, "ü" * 1000, permanent=True))

    hello = Hello(device="cam-7", boot=b"b" * 16, agent="0.1.0", capacity=64, observed=device.observed)

    assert len(device.observed) == 128
    assert len(encode(Envelope(hello))[2]) < MAX_CONTROL_BODY
