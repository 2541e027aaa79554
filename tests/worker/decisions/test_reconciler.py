"""What the agent starts, changes, stops and kills."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from streamfleet_core.protocol.values import (
    Assignment,
    DesiredStatus,
    ModelRef,
    Observed,
    ObservedState,
    Stage,
)
from streamfleet_worker.decisions.reconcile_actions import (
    Action,
    CancelFetch,
    ChangeCamera,
    FetchModel,
    Forget,
    KillChild,
    Persist,
    ShowPictures,
    StartCamera,
    StartEngine,
    StartPublisher,
    StopChild,
)
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    CameraId,
    ChildId,
    EngineId,
    Event,
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
from streamfleet_worker.decisions.reconciler import Reconcile
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport, PublisherReport
from tests.fakes.peers import MANIFEST, spec
from tests.fakes.reconciling import CAMERA, DIGEST, ENGINE, Device, assignment, row_of, running, says


def test_an_assignment_fetches_its_model_and_then_starts_engine_and_camera_at_once() -> None:
    device = Device()

    adopted = device.feed(Unfenced(), Adopted((assignment(),)))
    fetched = device.feed(ModelFetched(DIGEST, MANIFEST))

    assert adopted == [
        Persist(row_of(assignment(), 0)),
        FetchModel(DIGEST),
    ]
    assert fetched == [
        StartEngine(ENGINE, MANIFEST),
        Persist(row_of(assignment(), 1)),
        StartCamera(CAMERA, assignment(), (MANIFEST,)),
    ]
    assert device.observed == (
        Observed(pipeline_id="door", generation=1, incarnation=1, state=ObservedState.STARTING),
    )


def test_the_same_assignments_again_change_nothing() -> None:
    device = running()

    assert device.feed(Adopted((assignment(),))) == []


def test_two_pipelines_share_an_engine() -> None:
    device = running()

    actions = device.feed(Adopted((assignment(), assignment(2, run_generation=2, pipeline_id="gate"))))

    other = assignment(2, run_generation=2, pipeline_id="gate")
    assert actions == [
        Persist(row_of(other, 0)),
        Persist(row_of(other, 1)),
        StartCamera(CameraId("gate", 1), other, (MANIFEST,)),
    ]


def test_words_of_a_process_that_was_replaced_are_not_heard() -> None:
    device = running()
    device.feed(Exited(CAMERA, -9))
    device.wait(0.5)

    assert device.feed(says(ObservedState.ENDED)) == []
    assert device.feed(Exited(CAMERA, 0)) == []
    assert device.state is ObservedState.STARTING


def test_a_report_of_counters_alone_looks_at_no_other_pipeline() -> None:
    device = running()
    before = device.core.observed()

    counted = device.feed(says(ObservedState.RUNNING, emitted=99))

    assert counted == []
    assert device.core.observed() is before
    (view,) = device.core.pipelines(device.now)
    assert view.report is not None
    assert view.report.emitted == 99


def test_a_report_of_another_state_is_observed_at_once() -> None:
    device = running()
    before = device.core.observed()

    device.feed(says(ObservedState.RECONNECTING, reason="no route to the camera"))

    assert device.core.observed() is not before
    assert device.state is ObservedState.RECONNECTING


# whatever happens ------------------------------------------------------------------------------------------


@dataclass
class World:
    """Children that do anything, assignments that change, restarts of the agent; and what must hold."""

    rng: random.Random
    now: float = 0.0
    generation: int = 1
    core: Reconcile = field(init=False)
    rows: dict[str, Row] = field(default_factory=dict)  # what is on the disk
    alive: dict[ChildId, float | None] = field(default_factory=dict)  # child → when it was asked to stop
    told: dict[ChildId, Assignment] = field(default_factory=dict)  # of a camera, what it knows
    showing: set[ChildId] = field(default_factory=set)  # cameras
    assignments: dict[str, Assignment] = field(default_factory=dict)
    ended: set[tuple[str, int]] = field(default_factory=set)
    incarnations: dict[str, int] = field(default_factory=dict)  # of a pipeline that was not forgotten since
    generations: dict[tuple[str, int], int] = field(default_factory=dict)  # of a run, the last one told
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
                    self.incarnations.pop(action.pipeline_id, None)
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
                    assert action.assignment.generation >= before.generation
                    assert action.assignment != before
                    models = (action.assignment.spec.ordered_models, before.spec.ordered_models)
                    changes = [now != then for now, then in zip(*models, strict=True)]
                    assert [each is not None for each in action.manifests] == (
                        changes if any(changes) else []
                    )
                    assert not any(changes) or action.assignment.generation > before.generation
                    assert self.rows[action.child.pipeline_id].serving == models[0]
                    assert action.assignment.run_generation == before.run_generation
                    assert action.assignment.spec.can_update_to(before.spec), (
                        "a change that a camera cannot obey"
                    )
                    self.tell(action.child, action.assignment)
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
        rows = [action.row for action in actions if isinstance(action, Persist)]
        if rows:
            self.feed(Stored(tuple(rows)))

    def start(self, child: ChildId) -> None:
        assert child not in self.alive
        self.alive[child] = None

    def start_camera(self, action: StartCamera) -> None:
        child, assignment = action.child, action.assignment
        pipeline_id = child.pipeline_id
        known = self.assignments[pipeline_id]
        models = assignment.spec.ordered_models
        assert known.spec.with_models(models) == assignment.spec
        assert known.spec.ordered_models == models or known.generation >= assignment.generation
        assert assignment.desired_status != "stop"
        assert (pipeline_id, assignment.run_generation) not in self.ended, (
            "a playing that had ended began again"
        )
        assert self.rows[pipeline_id].incarnation == child.incarnation, "started before it was written"
        assert child.incarnation > self.incarnations.get(pipeline_id, 0), "an incarnation twice"
        assert not (self.fenced and assignment.on_disconnect == "stop")
        assert not any(isinstance(c, CameraId) and c.pipeline_id == pipeline_id for c in self.alive)
        engines = {c.digest for c in self.alive if isinstance(c, EngineId)}
        assert {model.digest for model in models} <= engines
        assert self.rows[pipeline_id].serving == models
        self.incarnations[pipeline_id] = child.incarnation
        self.tell(child, assignment)
        self.showing.discard(child)
        self.start(child)

    def tell(self, child: CameraId, assignment: Assignment) -> None:
        """What is emitted is ordered by its generation, also by what was emitted before the agent's start."""
        run = (child.pipeline_id, assignment.run_generation)
        assert assignment.generation >= self.generations.get(run, 0), "under an earlier generation"
        self.generations[run] = assignment.generation
        self.told[child] = assignment

    def exit(self, child: ChildId, code: int | None) -> None:
        del self.alive[child]
        self.feed(Exited(child, code))

    def change_something(self) -> None:
        pipeline_id = self.rng.choice("abc")
        known = self.assignments.get(pipeline_id)
        self.generation += 1
        if known is None or known.desired_status == "stop":
            stages = tuple(
                Stage(name=name, model=self.some_model()) for name in self.rng.choice(["", "r", "rs"])
            )
            fresh = Assignment(
                pipeline_id=pipeline_id,
                generation=self.generation,
                run_generation=self.generation,
                desired_status="run",
                on_disconnect=self.rng.choice(["stop", "continue"]),
                spec=spec("x"),
            )
            fresh = replace(fresh, spec=replace(fresh.spec, model=self.some_model(), stages=stages))
            self.assignments[pipeline_id] = fresh
        elif self.rng.random() < 0.2:
            del self.assignments[pipeline_id]
        else:
            desired_status: DesiredStatus = self.rng.choice(["run", "pause", "stop"])
            run_generation = self.generation if self.rng.random() < 0.3 else known.run_generation
            changed = replace(
                known,
                generation=self.generation,
                run_generation=run_generation,
                desired_status=desired_status,
            )
            if self.rng.random() < 0.3:
                changed = replace(changed, spec=replace(known.spec, confidence=self.rng.random()))
            if self.rng.random() < 0.3:
                models = [
                    self.some_model() if self.rng.random() < 0.6 else model
                    for model in changed.spec.ordered_models
                ]
                changed = replace(changed, spec=changed.spec.with_models(models))
            self.assignments[pipeline_id] = changed
        self.feed(Adopted(tuple(self.assignments.values())))

    def some_model(self) -> ModelRef:
        return ModelRef("m", self.rng.choice(["1" * 64, "2" * 64, "3" * 64]))

    def report(self, child: ChildId, *, well: bool = False) -> None:
        match child:
            case PublisherId():
                watched = ("a/",) if well else self.rng.choice([(), ("a/",), ("a/", "b/"), ("",)])
                self.feed(Reported(child, PublisherReport(0, 0, 0, watched)))
            case EngineId():
                sick = not well and self.rng.random() < 0.05
                state = self.rng.choice(["loading", "failed"]) if sick else "ready"
                oldest = 11.0 if not well and self.rng.random() < 0.02 else 0.0
                self.feed(Reported(child, EngineReport(state, "", 0, oldest)))  # type: ignore[arg-type]
            case CameraId():
                told = self.told[child]
                state = ObservedState.PAUSED if told.desired_status == "pause" else ObservedState.RUNNING
                if not well and self.rng.random() < 0.15:
                    state = self.rng.choice(
                        [ObservedState.STARTING, ObservedState.RECONNECTING, ObservedState.ENDED]
                    )
                run_generation = told.run_generation
                if (
                    state is ObservedState.ENDED
                    and run_generation == self.rows[child.pipeline_id].run_generation
                ):
                    self.ended.add((child.pipeline_id, run_generation))
                emitted = int(self.now * 10)
                report = CameraReport(
                    generation=told.generation,
                    state=state,
                    reason="",
                    waiting_for_engine=self.rng.random() < 0.2,
                    emitted=emitted,
                    sources=(),
                    dropped={},
                    fps=1.0,
                    report={},
                )
                self.feed(Reported(child, report))

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.05:
            self.change_something()
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
@settings(max_examples=30)
def test_whatever_happens_the_laws_hold_and_what_runs_becomes_what_is_desired(seed: int) -> None:
    world = World(random.Random(seed))

    for _ in range(600):
        world.step()

    # Then everybody is well, and nothing changes any more.
    world.fenced = False
    world.feed(Unfenced())
    world.feed(Adopted(tuple(world.assignments.values())))
    for _ in range(500):
        world.tick()
        while world.fetching:
            world.answer_fetch(0.0)
        for child in list(world.alive):
            if child in world.alive:
                world.report(child, well=True)
        for child in [child for child, asked_at in world.alive.items() if asked_at is not None]:
            world.exit(child, 0)
    desired = {pipeline_id: w for pipeline_id, w in world.assignments.items() if w.desired_status != "stop"}
    observed = {entry.pipeline_id: entry for entry in world.core.observed()}
    assert observed.keys() == desired.keys()
    cameras = [child for child in world.alive if isinstance(child, CameraId)]
    assert {child for child in cameras if child.pipeline_id == "a"} == world.showing & set(cameras)
    for pipeline_id, entry in observed.items():
        expected = (
            ObservedState.PAUSED if desired[pipeline_id].desired_status == "pause" else ObservedState.RUNNING
        )
        assert entry.state in (expected, ObservedState.ENDED, ObservedState.FAILED)
        assert entry.generation == desired[pipeline_id].generation
        (view,) = world.core.pipelines(world.now, pipeline_id)
        is_the_desired_one = view.model == desired[pipeline_id].spec.model
        assert is_the_desired_one or view.model_trouble or entry.state is not expected
        assert entry.state is not ObservedState.ENDED or (
            (pipeline_id, desired[pipeline_id].run_generation) in world.ended
        )
