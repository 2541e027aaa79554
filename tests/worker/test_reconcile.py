"""What the agent starts, changes, stops and kills."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfleet_broker.protocol.control import MAX_BODY, Envelope, encode
from streamfleet_broker.protocol.messages import Hello
from streamfleet_broker.protocol.status import SourceStat
from streamfleet_broker.protocol.values import ModelRef, Observed, ObservedState, SourceSpec, Want, Wish
from streamfleet_worker.control import CameraReport, EngineReport, PublisherReport
from streamfleet_worker.reconcile import (
    Action,
    Adopted,
    CameraId,
    CancelFetch,
    ChangeCamera,
    ChildId,
    EngineId,
    Event,
    Exited,
    Fenced,
    FetchModel,
    Forget,
    KillChild,
    ModelFetched,
    ModelRefused,
    Persist,
    PublisherId,
    Reconcile,
    Refuse,
    Reported,
    Row,
    ShowPictures,
    StartCamera,
    StartEngine,
    StartPublisher,
    StopChild,
    Unfenced,
)
from tests.worker.peers import MANIFEST, spec

DIGEST = MANIFEST.digest
ENGINE = EngineId(DIGEST, 1)
CAMERA = CameraId("door", 1)


def wish(gen: int = 1, want: Want = "run", *, start_gen: int = 1, pipeline_id: str = "door") -> Wish:
    return Wish(pipeline_id, gen, start_gen, want, "continue", spec("rtsp://h/door"))


def movable(gen: int = 1) -> Wish:
    return replace(wish(gen), on_disconnect="stop")


def says(
    state: ObservedState = ObservedState.RUNNING,
    *,
    gen: int = 1,
    emitted: int = 1,
    waiting: bool = False,
    reason: str = "",
    camera: CameraId = CAMERA,
    sources: tuple[SourceStat, ...] = (),
) -> Reported:
    report = CameraReport(gen, state, reason, waiting, emitted, sources, {}, 20.0, {})
    return Reported(camera, report)


def engine_says(state: str = "ready", reason: str = "", oldest_run: float = 0.0) -> Reported:
    return Reported(ENGINE, EngineReport(state, reason, "CPU", 1, oldest_run))  # type: ignore[arg-type]


class Device:
    """A reconcile in a world in which time passes by ticks, and the publisher and what is named are well."""

    def __init__(self, *rows: Row) -> None:
        self.core = Reconcile(rows, lambda: 0.5)
        self.now = 0.0
        self.well: list[Event] = [Reported(PublisherId(1), PublisherReport(0, 0, 0))]
        self.core.tick(0.0)

    def feed(self, *events: Event) -> list[Action]:
        actions: list[Action] = []
        for event in events:
            actions += self.core.receive(event, self.now)
            self.core.check()
        return actions

    def wait(self, seconds: float) -> list[Action]:
        """So many seconds, with a report of each child that is well in each tick."""
        actions: list[Action] = []
        for _ in range(round(seconds * 10)):
            self.now = round(self.now + 0.1, 3)
            actions += self.feed(*self.well)
            actions += self.core.tick(self.now)
            self.core.check()
        return actions

    @property
    def observed(self) -> tuple[Observed, ...]:
        return self.core.observed()

    @property
    def state(self) -> ObservedState:
        (observed,) = self.observed
        return observed.state


def running(first: Wish | None = None) -> Device:
    """A device with one camera that runs, at t = 0."""
    device = Device()
    device.feed(Unfenced(), Adopted((first or wish(),)), ModelFetched(DIGEST, MANIFEST))
    device.feed(engine_says(), says(gen=(first or wish()).gen))
    device.well += [engine_says()]
    return device


def test_the_publisher_is_started_first() -> None:
    assert Reconcile([], lambda: 0.5).tick(0.0) == [StartPublisher(PublisherId(1))]


def test_a_wish_fetches_its_model_and_then_starts_engine_and_camera_at_once() -> None:
    device = Device()

    adopted = device.feed(Unfenced(), Adopted((wish(),)))
    fetched = device.feed(ModelFetched(DIGEST, MANIFEST))

    assert adopted == [Persist(Row("door", 1, 1, 0)), FetchModel(DIGEST)]
    assert fetched == [
        StartEngine(ENGINE, MANIFEST),
        Persist(Row("door", 1, 1, 1)),
        StartCamera(CAMERA, wish(), MANIFEST),
    ]
    assert device.observed == (Observed("door", 1, 1, ObservedState.STARTING),)


def test_the_same_wishes_again_change_nothing() -> None:
    device = running()

    assert device.feed(Adopted((wish(),))) == []


def test_two_pipelines_share_an_engine() -> None:
    device = running()

    actions = device.feed(Adopted((wish(), wish(2, start_gen=2, pipeline_id="gate"))))

    other = wish(2, start_gen=2, pipeline_id="gate")
    assert actions == [
        Persist(Row("gate", 2, 2, 0)),
        Persist(Row("gate", 2, 2, 1)),
        StartCamera(CameraId("gate", 1), other, MANIFEST),
    ]


def test_pause_and_resume_change_the_living_camera() -> None:
    device = running()

    paused = device.feed(Adopted((wish(2, "pause"),)))
    before = device.observed
    device.feed(says(ObservedState.PAUSED, gen=2))
    after = device.observed
    resumed = device.feed(Adopted((wish(3),)))

    assert paused == [Persist(Row("door", 2, 1, 1)), ChangeCamera(CAMERA, wish(2, "pause"))]
    assert before == (Observed("door", 1, 1, ObservedState.RUNNING),)
    assert after == (Observed("door", 2, 1, ObservedState.PAUSED),)
    assert resumed == [Persist(Row("door", 3, 1, 1)), ChangeCamera(CAMERA, wish(3))]


def test_what_can_change_while_it_plays_is_told_to_the_living_camera() -> None:
    device = running()
    stricter = replace(wish(2), spec=spec("rtsp://h/door", confidence=0.9, max_fps=5))

    changed = device.feed(Adopted((stricter,)))
    before = device.observed
    device.feed(says(gen=2))

    assert changed == [Persist(Row("door", 2, 1, 1)), ChangeCamera(CAMERA, stricter)]
    assert before == (Observed("door", 1, 1, ObservedState.RUNNING),)
    assert device.observed == (Observed("door", 2, 1, ObservedState.RUNNING),)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(wish(2), on_disconnect="stop"), id="on_disconnect"),
        pytest.param(replace(wish(2), spec=spec("rtsp://h/gate")), id="source"),
    ],
)
def test_what_a_camera_learns_at_its_start_only_makes_a_new_one_that_goes_on(changed: Wish) -> None:
    device = running()

    asked = device.feed(Adopted((changed,)))
    ended = device.feed(Exited(CAMERA, 0))

    assert asked == [Persist(Row("door", 2, 1, 1)), StopChild(CAMERA)]
    assert ended == [Persist(Row("door", 2, 1, 2)), StartCamera(CameraId("door", 2), changed, MANIFEST)]
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
        StartCamera(CameraId("door", 2), wish(), MANIFEST),
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
    changed = wish(2, start_gen=2)

    asked = device.feed(Adopted((changed,)))
    ended = device.feed(Exited(CAMERA, 0))

    assert asked == [Persist(Row("door", 2, 2, 1)), StopChild(CAMERA)]
    assert ended == [Persist(Row("door", 2, 2, 2)), StartCamera(CameraId("door", 2), changed, MANIFEST)]


def test_another_model_is_fetched_while_the_old_camera_ends_and_its_engine_goes_when_it_is_cold() -> None:
    device = running()
    other = replace(wish(2, start_gen=2), spec=replace(wish().spec, model=ModelRef("parts/2", "2" * 64)))
    engine, camera = EngineId("2" * 64, 1), CameraId("door", 2)

    asked = device.feed(Adopted((other,)))
    ended = device.feed(Exited(CAMERA, 0))
    fetched = device.feed(ModelFetched("2" * 64, MANIFEST))
    report = EngineReport("ready", "", "CPU", 1, 0.0)
    device.well += [Reported(engine, report), says(ObservedState.PAUSED, gen=2, camera=camera)]
    cold = device.wait(30.2)

    assert asked == [Persist(Row("door", 2, 2, 1)), FetchModel("2" * 64), StopChild(CAMERA)]
    assert ended == []
    assert fetched == [
        StartEngine(engine, MANIFEST),
        Persist(Row("door", 2, 2, 2)),
        StartCamera(camera, other, MANIFEST),
    ]
    assert cold == [StopChild(ENGINE)]


def test_a_stop_is_asked_for_and_after_a_second_forced_and_then_confirmed() -> None:
    device = running()
    device.well.append(says())

    asked = device.feed(Adopted((wish(2, "stop"),)))
    stopping = device.observed
    waited = device.wait(1.0)
    device.feed(Exited(CAMERA, -9))

    assert asked == [Persist(Row("door", 2, 1, 1)), StopChild(CAMERA)]
    assert stopping == (Observed("door", 2, 1, ObservedState.STOPPING),)
    assert waited == [KillChild(CAMERA, "it did not stop when it was asked")]
    assert device.observed == ()


def test_a_pipeline_that_is_gone_is_forgotten_once_it_has_ended() -> None:
    device = running()

    asked = device.feed(Adopted(()))
    ended = device.feed(Exited(CAMERA, 0))

    assert asked == [StopChild(CAMERA)]
    assert ended == [Forget("door")]


def test_nothing_is_forgotten_before_the_first_wishes() -> None:
    device = Device(Row("door", 3, 1, 5))

    assert device.feed(Unfenced()) == []
    assert device.feed(Adopted(())) == [Forget("door")]


def test_a_lower_generation_is_refused_also_after_a_restart() -> None:
    device = Device(Row("door", 3, 1, 5))

    assert device.feed(Unfenced(), Adopted((wish(2),))) == [Refuse("door", 2, 3)]
    assert device.feed(Adopted((wish(2),))) == [Refuse("door", 2, 3)]
    assert device.observed == ()


def test_a_lower_generation_leaves_what_runs_alone() -> None:
    device = running(wish(3))

    assert device.feed(Adopted((wish(2, "pause"),))) == [Refuse("door", 2, 3)]
    assert device.state is ObservedState.RUNNING


def test_an_ended_playing_is_never_started_again() -> None:
    device = running()

    ended = device.feed(says(ObservedState.ENDED, emitted=9))
    exited = device.feed(Exited(CAMERA, 0))
    later = device.wait(5) + device.feed(Adopted((wish(2, "pause"),)), Adopted((wish(3),)))

    row = Row("door", 1, 1, 1, ended_start_gen=1)
    assert ended == [Persist(row), StopChild(CAMERA)]
    assert exited == []
    assert later == [Persist(replace(row, gen=2)), Persist(replace(row, gen=3))]
    assert device.observed == (Observed("door", 3, 1, ObservedState.ENDED),)


def test_an_ended_playing_is_not_started_after_a_restart_and_a_new_one_is() -> None:
    device = Device(Row("door", 1, 1, 1, ended_start_gen=1))

    same = device.feed(Unfenced(), Adopted((wish(),)))
    state = device.state
    anew = device.feed(Adopted((wish(2, start_gen=2),)))

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
    assert seen == (Observed("door", 1, 1, ObservedState.CRASHED, reason, restarts=1),)
    assert backoff is ObservedState.BACKOFF
    assert again == [Persist(Row("door", 1, 1, 2)), StartCamera(CameraId("door", 2), wish(), MANIFEST)]


def test_why_it_crashed_is_known_while_it_runs_again_and_forgotten_when_it_is_played_anew() -> None:
    device = running()
    device.feed(Exited(CAMERA, -11))
    device.wait(0.5)

    device.feed(says(camera=CameraId("door", 2)))
    (again,) = device.core.pipelines(device.now)
    device.feed(Adopted((wish(2, start_gen=2),)))
    (anew,) = device.core.pipelines(device.now)

    assert (again.observed.state, again.observed.reason) == (ObservedState.RUNNING, "")
    assert (again.observed.restarts, again.last_crash) == (1, "the camera process was ended by SIGSEGV")
    assert (anew.observed.restarts, anew.last_crash) == (0, "")


def test_six_crashes_in_a_row_are_each_followed_by_a_start_within_four_seconds() -> None:
    device = running()
    device.core._rng = lambda: 1.0

    for inc in range(1, 7):
        device.feed(Exited(CameraId("door", inc), -9))
        crashed_at = device.now
        while not any(isinstance(action, StartCamera) for action in device.wait(0.1)):
            assert device.now - crashed_at < 4.0
    assert device.observed[0].restarts == 6


def test_a_minute_of_health_forgives_the_crashes_before() -> None:
    device = running()
    device.core._rng = lambda: 1.0
    for inc in range(1, 5):
        device.feed(Exited(CameraId("door", inc), -9))
        device.wait(5)
        device.feed(says(camera=CameraId("door", inc + 1)))
    device.well.append(says(ObservedState.PAUSED, camera=CameraId("door", 5)))
    device.wait(60)
    device.well.pop()

    device.feed(Exited(CameraId("door", 5), -9))

    assert StartCamera(CameraId("door", 6), wish(), MANIFEST) in device.wait(0.6)


def test_a_camera_that_falls_silent_is_killed_and_started_again() -> None:
    device = running()

    killed = device.wait(5)
    state = device.state
    device.feed(Exited(CAMERA, -9))
    again = device.wait(1)

    assert killed == [KillChild(CAMERA, "no report for 5 s")]
    assert state is ObservedState.CRASHED
    assert StartCamera(CameraId("door", 2), wish(), MANIFEST) in again


def test_a_camera_that_never_speaks_is_killed_after_thirty_seconds() -> None:
    device = Device()
    device.feed(Unfenced(), Adopted((wish(),)), ModelFetched(DIGEST, MANIFEST), engine_says())
    device.well.append(engine_says())

    assert device.wait(29.9) == []
    assert device.wait(0.1) == [KillChild(CAMERA, "no sign of life for 30 s after its start")]


def test_a_camera_that_says_it_runs_and_emits_nothing_is_killed() -> None:
    device = running()
    device.well.append(says(emitted=7))

    assert device.wait(10.1) == [KillChild(CAMERA, "it says that it runs, and emitted nothing for 10 s")]


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
    slow = replace(wish(), spec=replace(wish().spec, max_fps=0.1))
    device = running(slow)
    device.well.append(says(emitted=7))

    assert device.wait(29) == []


def test_of_several_sources_the_fastest_that_runs_says_how_slow_a_camera_may_be() -> None:
    sources = (SourceSpec("rtsp://h/door", max_fps=0.1), SourceSpec("rtsp://h/gate"))
    device = running(replace(wish(), spec=replace(wish().spec, sources=sources)))
    slow, fast = SourceStat(0, "door", "RUNNING"), SourceStat(1, "gate", "RUNNING")
    lost = replace(fast, state="INITIALISING")
    device.well.append(says(emitted=7, sources=(slow, lost)))

    only_the_slow_one = device.wait(29)
    device.well[-1] = says(emitted=8, sources=(slow, fast))
    both = device.wait(10.2)

    assert only_the_slow_one == []
    assert both == [KillChild(CAMERA, "it says that it runs, and emitted nothing for 10 s")]


def test_whoever_slept_blames_nobody() -> None:
    device = running()
    device.well.append(says(ObservedState.PAUSED))
    device.wait(1)

    device.now += 60

    assert device.core.tick(device.now) == []


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
    device.feed(Unfenced(), Adopted((wish(),)), ModelFetched(DIGEST, MANIFEST), says(ObservedState.STARTING))

    failed = device.feed(engine_says("failed", "opset 99"))
    device.feed(Exited(CAMERA, 0), Exited(ENGINE, 0))
    later = device.wait(60) + device.feed(Adopted((wish(2, "pause"),)))
    observed = device.observed
    changed = device.feed(Adopted((wish(3, start_gen=3),)))

    assert failed == [StopChild(ENGINE), StopChild(CAMERA)]
    assert later == [Persist(Row("door", 2, 1, 1))]
    assert observed == (Observed("door", 2, 1, ObservedState.FAILED, "model parts/1: opset 99"),)
    assert FetchModel(DIGEST) in changed


def test_a_model_that_is_not_there_fails_its_pipelines_and_one_that_may_come_does_not() -> None:
    device = Device()
    device.feed(Unfenced(), Adopted((wish(),)))

    device.feed(ModelRefused(DIGEST, "the api is away", permanent=False))
    waiting = device.observed
    device.feed(ModelRefused(DIGEST, "HTTP 404", permanent=True))

    reason = "fetching model parts/1: the api is away"
    assert waiting == (Observed("door", 1, 0, ObservedState.STARTING, reason),)
    assert device.observed == (Observed("door", 1, 0, ObservedState.FAILED, "model parts/1: HTTP 404"),)


def test_a_camera_that_says_it_cannot_work_is_not_started_again() -> None:
    device = running()

    stopped = device.feed(says(ObservedState.FAILED, reason="no such option"))
    device.feed(Exited(CAMERA, 1))

    assert stopped == [StopChild(CAMERA)]
    assert device.wait(20) == []
    assert device.state is ObservedState.FAILED


def test_an_engine_stays_warm_for_half_a_minute() -> None:
    device = running()
    device.feed(Adopted((wish(2, "stop"),)), Exited(CAMERA, 0))

    assert device.wait(29.9) == []
    assert device.wait(0.2) == [StopChild(ENGINE)]


def test_a_model_that_nobody_wants_any_more_is_not_fetched() -> None:
    device = Device()
    device.feed(Unfenced(), Adopted((wish(),)))

    assert CancelFetch(DIGEST) in device.feed(Adopted(()))


def test_out_of_contact_movable_pipelines_stop_and_pinned_ones_go_on() -> None:
    device = Device()
    pinned = wish(pipeline_id="gate")
    device.feed(Unfenced(), Adopted((movable(), pinned)), ModelFetched(DIGEST, MANIFEST))

    fenced = device.feed(Fenced())
    device.feed(Exited(CAMERA, 0))
    meanwhile = device.observed[0]
    unfenced = device.feed(Unfenced())

    assert fenced == [StopChild(CAMERA)]
    assert meanwhile.state is ObservedState.STARTING
    assert meanwhile.reason == "stopped until the broker is heard again"
    assert unfenced == [
        Persist(Row("door", 1, 1, 2)),
        StartCamera(CameraId("door", 2), movable(), MANIFEST),
    ]


@pytest.mark.parametrize(("wished", "leaving"), [(movable(), True), (wish(), False)])
def test_the_fence_waits_for_movable_cameras_that_are_on_their_way_out(wished: Wish, leaving: bool) -> None:
    device = running(wished)
    assert not device.core.is_leaving()

    device.feed(Adopted(()))
    asked = device.core.is_leaving()
    device.feed(Exited(CAMERA, 0))

    assert asked is leaving
    assert not device.core.is_leaving()


def test_the_fence_waits_for_a_movable_camera_whatever_takes_its_place() -> None:
    device = running(movable())

    device.feed(Adopted((wish(gen=2, start_gen=2),)))

    assert device.core.is_leaving()


def test_before_the_first_contact_only_pinned_pipelines_start() -> None:
    device = Device()

    assert FetchModel(DIGEST) not in device.feed(Adopted((movable(),)))
    assert FetchModel(DIGEST) in device.feed(Adopted((wish(),)))


def test_the_publisher_is_restarted() -> None:
    device = Device()

    device.feed(Exited(PublisherId(1), -9))

    assert device.wait(0.5) == [StartPublisher(PublisherId(2))]


def test_words_of_a_process_that_was_replaced_are_not_heard() -> None:
    device = running()
    device.feed(Exited(CAMERA, -9))
    device.wait(0.5)

    assert device.feed(says(ObservedState.ENDED)) == []
    assert device.feed(Exited(CAMERA, 0)) == []
    assert device.state is ObservedState.STARTING


def test_a_reason_shows_no_password() -> None:
    device = running()

    device.feed(says(ObservedState.RECONNECTING, reason="cannot open rtsp://u:p@cam/1?key=2: timeout"))

    assert device.observed[0].reason == "cannot open rtsp://cam/1: timeout"


def test_what_a_full_device_says_fits_into_one_message() -> None:
    device = Device()
    names = [f"{number:064}" for number in range(128)]
    wishes = tuple(wish(pipeline_id=name) for name in names)
    device.feed(Unfenced(), Adopted(wishes), ModelRefused(DIGEST, "ü" * 1000, permanent=True))

    hello = Hello("cam-7", b"b" * 16, "0.1.0", 64, observed=device.observed)

    assert len(device.observed) == 128
    assert len(encode(Envelope(hello))[2]) < MAX_BODY


# whatever happens ------------------------------------------------------------------------------------------


@dataclass
class World:
    """Children that do anything at all, wishes that change, restarts of the agent; and what must hold."""

    rng: random.Random
    now: float = 0.0
    gen: int = 1
    core: Reconcile = field(init=False)
    rows: dict[str, Row] = field(default_factory=dict)  # what is on the disk
    alive: dict[ChildId, float | None] = field(default_factory=dict)  # child → when it was asked to stop
    told: dict[ChildId, Wish] = field(default_factory=dict)  # of a camera, what it knows
    showing: set[ChildId] = field(default_factory=set)  # cameras
    wishes: dict[str, Wish] = field(default_factory=dict)
    ended: set[tuple[str, int]] = field(default_factory=set)
    incs: dict[str, int] = field(default_factory=dict)  # of a pipeline that was not forgotten since
    fetching: set[str] = field(default_factory=set)
    fenced: bool = True

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> None:
        """The agent is killed, its children with it, and started again."""
        self.core = Reconcile(list(self.rows.values()), self.rng.random)
        self.alive, self.told, self.fetching, self.fenced = {}, {}, set(), True

    def feed(self, event: Event) -> None:
        self.perform(self.core.receive(event, self.now))

    def tick(self) -> None:
        self.now += 0.1
        self.perform(self.core.tick(self.now))
        for child, asked_at in self.alive.items():
            assert asked_at is None or self.now - asked_at < 2.0, f"{child} outlived its stop"

    def perform(self, actions: list[Action]) -> None:  # noqa: C901 - a table
        killed: list[ChildId] = []
        for action in actions:
            match action:
                case Persist():
                    self.rows[action.row.pipeline_id] = action.row
                case Forget():
                    assert not any(
                        isinstance(child, CameraId) and child.pipeline_id == action.pipeline_id
                        for child in self.alive
                    )
                    del self.rows[action.pipeline_id]
                    self.incs.pop(action.pipeline_id, None)
                case FetchModel():
                    assert action.digest not in self.fetching
                    self.fetching.add(action.digest)
                case CancelFetch():
                    self.fetching.remove(action.digest)
                case StartPublisher() | StartEngine():
                    self.start(action.child)
                case StartCamera():
                    self.start_camera(action)
                case ChangeCamera():
                    assert self.alive[action.child] is None
                    before = self.told[action.child]
                    assert action.wish.gen > before.gen
                    assert action.wish.start_gen == before.start_gen
                    assert action.wish.spec.plays_like(before.spec), "a change that a camera cannot obey"
                    self.told[action.child] = action.wish
                case ShowPictures():
                    assert self.alive[action.child] is None
                    assert action.wanted != (action.child in self.showing), "told twice"
                    self.showing ^= {action.child}
                case StopChild():
                    assert self.alive[action.child] is None, "asked twice"
                    self.alive[action.child] = self.now
                case KillChild():
                    assert action.child in self.alive
                    killed.append(action.child)
        self.core.check()
        assert self.core.children() == set(self.alive)
        for child in killed:
            self.exit(child, -9)

    def start(self, child: ChildId) -> None:
        assert child not in self.alive
        self.alive[child] = None

    def start_camera(self, action: StartCamera) -> None:
        child, wish = action.child, action.wish
        pipeline_id = child.pipeline_id
        assert self.wishes[pipeline_id] == wish
        assert wish.want != "stop"
        assert (pipeline_id, wish.start_gen) not in self.ended, "a playing that had ended began again"
        assert self.rows[pipeline_id].inc == child.inc, "started before it was written"
        assert child.inc > self.incs.get(pipeline_id, 0), "an incarnation twice"
        assert not (self.fenced and wish.on_disconnect == "stop")
        assert not any(isinstance(c, CameraId) and c.pipeline_id == pipeline_id for c in self.alive)
        assert any(isinstance(c, EngineId) and c.digest == wish.spec.model.digest for c in self.alive)
        self.incs[pipeline_id] = child.inc
        self.told[child] = wish
        self.showing.discard(child)
        self.start(child)

    def exit(self, child: ChildId, code: int | None) -> None:
        del self.alive[child]
        self.feed(Exited(child, code))

    def wish_for_something(self) -> None:
        pipeline_id = self.rng.choice("abc")
        known = self.wishes.get(pipeline_id)
        self.gen += 1
        if known is None or known.want == "stop":
            model = ModelRef("m", self.rng.choice(["1" * 64, "2" * 64]))
            fresh = Wish(
                pipeline_id, self.gen, self.gen, "run", self.rng.choice(["stop", "continue"]), spec("x")
            )
            self.wishes[pipeline_id] = replace(fresh, spec=replace(fresh.spec, model=model))
        elif self.rng.random() < 0.2:
            del self.wishes[pipeline_id]
        else:
            want: Want = self.rng.choice(["run", "pause", "stop"])
            start_gen = self.gen if self.rng.random() < 0.3 else known.start_gen
            changed = replace(known, gen=self.gen, start_gen=start_gen, want=want)
            if self.rng.random() < 0.3:
                changed = replace(changed, spec=replace(known.spec, confidence=self.rng.random()))
            self.wishes[pipeline_id] = changed
        self.feed(Adopted(tuple(self.wishes.values())))

    def report(self, child: ChildId, *, well: bool = False) -> None:
        match child:
            case PublisherId():
                watched = ("a/",) if well else self.rng.choice([(), ("a/",), ("a/", "b/"), ("",)])
                self.feed(Reported(child, PublisherReport(0, 0, 0, watched)))
            case EngineId():
                sick = not well and self.rng.random() < 0.05
                state = self.rng.choice(["loading", "failed"]) if sick else "ready"
                oldest = 11.0 if not well and self.rng.random() < 0.02 else 0.0
                self.feed(Reported(child, EngineReport(state, "", "", 0, oldest)))  # type: ignore[arg-type]
            case CameraId():
                told = self.told[child]
                state = ObservedState.PAUSED if told.want == "pause" else ObservedState.RUNNING
                if not well and self.rng.random() < 0.15:
                    state = self.rng.choice(
                        [ObservedState.STARTING, ObservedState.RECONNECTING, ObservedState.ENDED]
                    )
                start_gen = told.start_gen
                if state is ObservedState.ENDED and start_gen == self.rows[child.pipeline_id].start_gen:
                    self.ended.add((child.pipeline_id, start_gen))
                emitted = int(self.now * 10)
                report = CameraReport(told.gen, state, "", self.rng.random() < 0.2, emitted, (), {}, 1.0, {})
                self.feed(Reported(child, report))

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.05:
            self.wish_for_something()
        elif chance < 0.35 and self.alive:
            self.report(self.rng.choice(list(self.alive)))
        elif chance < 0.40 and self.alive:
            self.exit(self.rng.choice(list(self.alive)), self.rng.choice([0, 1, -9, -11, None]))
        elif chance < 0.45 and self.fetching:
            self.answer_fetch(self.rng.random())
        elif chance < 0.48:
            self.fenced = not self.fenced
            self.feed(Fenced() if self.fenced else Unfenced())
        elif chance < 0.485:
            self.boot()
        else:
            self.tick()

    def answer_fetch(self, chance: float) -> None:
        digest = self.rng.choice(sorted(self.fetching))
        if chance < 0.8:
            self.fetching.remove(digest)
            self.feed(ModelFetched(digest, MANIFEST))
        elif chance < 0.9:
            self.feed(ModelRefused(digest, "away", permanent=False))
        else:
            self.fetching.remove(digest)
            self.feed(ModelRefused(digest, "gone", permanent=True))


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_laws_hold_and_what_runs_becomes_what_is_wished(seed: int) -> None:
    world = World(random.Random(seed))

    for _ in range(600):
        world.step()

    # Then everybody is well, and nothing changes any more.
    world.fenced = False
    world.feed(Unfenced())
    world.feed(Adopted(tuple(world.wishes.values())))
    for _ in range(500):
        world.tick()
        while world.fetching:
            world.answer_fetch(0.0)
        for child in list(world.alive):
            if child in world.alive:
                world.report(child, well=True)
        for child in [child for child, asked_at in world.alive.items() if asked_at is not None]:
            world.exit(child, 0)
    wished = {pipeline_id: w for pipeline_id, w in world.wishes.items() if w.want != "stop"}
    observed = {entry.pipeline_id: entry for entry in world.core.observed()}
    assert observed.keys() == wished.keys()
    cameras = [child for child in world.alive if isinstance(child, CameraId)]
    assert {child for child in cameras if child.pipeline_id == "a"} == world.showing & set(cameras)
    for pipeline_id, entry in observed.items():
        expected = ObservedState.PAUSED if wished[pipeline_id].want == "pause" else ObservedState.RUNNING
        assert entry.state in (expected, ObservedState.ENDED, ObservedState.FAILED)
        assert entry.gen == wished[pipeline_id].gen
        assert entry.state is not ObservedState.ENDED or (
            (pipeline_id, wished[pipeline_id].start_gen) in world.ended
        )
