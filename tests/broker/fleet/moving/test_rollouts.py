"""Roll-outs of a model: what devices are asked and told, what is stored, and who goes on with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from streamfleet_broker.fleet.moving.rollouts import INTERVAL
from streamfleet_broker.fleet.records import Record
from streamfleet_broker.fleet.scheduler import MAX_DESIRED_SIZE, OPTIMISATION, size
from streamfleet_core.protocol.limits import (
    MAX_ACTIVE_ROLLOUTS,
    MAX_CONTROL_BODY,
    MAX_MEASURED_MODELS,
    MAX_ROLLOUTS,
    MAX_SHADOWS,
)
from streamfleet_core.protocol.messages import Desired
from streamfleet_core.protocol.requests import PutPipeline
from streamfleet_core.protocol.tasks.rollouts import (
    CancelRollout,
    GetRollout,
    ListRollouts,
    RolloutLimits,
    RolloutPlan,
    RolloutView,
    StartRollout,
)
from streamfleet_core.protocol.tasks.trials import PipelineFigures, Shadow, ShadowCounts, ShadowStat, Trials
from streamfleet_core.protocol.values import ModelRef
from tests.fakes.scripted_fleet import CAMERA, ScriptedFleet, scripted_fleet

OLD, NEW = CAMERA.model, ModelRef("parts/2", "cd" * 32)
PLAN = RolloutPlan(
    old=OLD, new=NEW, canary=0.05, max_unavailable=5, limits=RolloutLimits(observe=6, shadow=0, start=20)
)


@dataclass
class Site:
    """A fleet whose devices do what they are told: each pipeline finds two objects in ten frames a second."""

    fleet: ScriptedFleet
    finds: int = 2  # objects a frame, with the new model
    taking: float = 3.0  # seconds from a change to its effect
    most_down: int = 0
    clock: float = 0.0  # of the devices
    _used: dict[str, tuple[ModelRef, float]] = field(default_factory=dict)  # the model in use, and since when
    _frames: dict[str, int] = field(default_factory=dict)
    _objects: dict[str, int] = field(default_factory=dict)

    def second(self) -> None:
        fleet = self.fleet
        fleet.now += INTERVAL
        fleet.checks = False
        self.clock += INTERVAL
        down = 0
        for name, device in list(fleet.devices.items()):
            figures = []
            for each in device.assignments:
                pipeline_id, wanted = each.pipeline_id, each.spec.model
                used, since = self._used.setdefault(pipeline_id, (wanted, self.clock))
                if used != wanted and self.clock - since >= self.taking:
                    used = wanted
                if used == wanted:
                    self._used[pipeline_id] = (used, self.clock)
                down += used != wanted
                objects = self.finds if used == NEW else 2
                self._frames[pipeline_id] = self._frames.get(pipeline_id, 0) + 10
                self._objects[pipeline_id] = self._objects.get(pipeline_id, 0) + 10 * objects
                figures.append(self._figures_of(pipeline_id, used))
            fleet.obey(name)
            asked = () if device.trials is None else device.trials.measured
            told = tuple(each for each in figures if wanted.digest in asked)
            fleet.heartbeat(name, full=False, figures=told)
        self.most_down = max(self.most_down, down)
        fleet.checks = True
        fleet.perform(fleet.fleet.tick(fleet.now))

    def _figures_of(self, pipeline_id: str, used: ModelRef) -> PipelineFigures:
        shadows = {
            shadow.pipeline_id: shadow
            for device in self.fleet.devices.values()
            for shadow in (device.trials.shadows if device.trials is not None else ())
        }
        shadow = None
        if pipeline_id in shadows:
            frames = self._frames[pipeline_id]
            counts = ShadowCounts(frames=frames, own_boxes=2 * frames, boxes=self.finds * frames)
            counts = replace(counts, paired=min(2, self.finds) * frames)
            shadow = ShadowStat(model=shadows[pipeline_id].model.id, state="running", counts=counts)
        return PipelineFigures(
            pipeline_id=pipeline_id,
            at=self.clock,
            model=used.digest,
            frames=self._frames[pipeline_id],
            objects=self._objects[pipeline_id],
            latency=0.04,
            shadow=shadow,
        )

    def until_over(self, rollout_id: str = "r", *, at_most: int = 900) -> RolloutView:
        for _ in range(at_most):
            self.second()
            view = self.get(rollout_id)
            if view.ended_at is not None:
                return view
        raise AssertionError(f"it is not over: {view}")

    def get(self, rollout_id: str = "r") -> RolloutView:
        view = self.fleet.reply(GetRollout(rollout_id))
        assert isinstance(view, RolloutView)
        return view

    def models(self) -> set[str]:
        return {each.spec.model.id for device in self.fleet.devices.values() for each in device.assignments}

    def records(self) -> list[Record]:
        return [record for record in self.fleet.saved.values() if record is not None]


def site(count: int, *, finds: int = 2) -> Site:
    names = [f"edge-{number}" for number in range(count)]
    fleet = scripted_fleet(*names)
    for number, name in enumerate(names):
        fleet.create(f"belt-{number}", device=name)
    return Site(fleet, finds)


def test_a_hundred_devices_get_a_good_model_and_never_more_than_five_are_down() -> None:
    here = site(100)

    here.fleet.reply(StartRollout("r", PLAN))
    view = here.until_over()

    assert (view.phase, view.stages) == ("done", {"good": 100})
    assert here.models() == {NEW.id}
    assert 0 < here.most_down <= 5
    assert view.entries[0].verdict.startswith("2.00 objects a frame (before 2.00), 40 ms (before 40 ms)")
    # Nothing is measured any more.
    assert {device.trials for device in here.fleet.devices.values()} == {None}


def test_a_blind_model_stops_at_the_canaries_and_all_are_back() -> None:
    here = site(100, finds=0)

    here.fleet.reply(StartRollout("r", PLAN))
    view = here.until_over()

    assert view.phase == "returned"
    assert "it finds 0.00 objects a frame, before 2.00" in view.reason
    assert view.stages == {"back": 5, "waiting": 95}
    assert here.models() == {OLD.id}


def test_a_blind_model_stops_as_a_shadow_and_no_pipeline_has_used_it() -> None:
    here = site(20, finds=0)
    plan = replace(PLAN, limits=replace(PLAN.limits, shadow=5), dataset="differing", share=0.5)

    here.fleet.reply(StartRollout("r", plan))
    while here.get().phase != "shadow":
        here.second()
    trials = [device.trials for device in here.fleet.devices.values() if device.trials is not None]
    shadows = [each for trial in trials for each in trial.shadows]
    view = here.until_over()

    assert [(each.pipeline_id, each.model, each.share, each.dataset) for each in shadows] == [
        ("belt-0", NEW, 0.5, "differing")
    ]
    assert view.phase == "returned"
    assert view.reason == "belt-0: beside the old model, it finds 0.00 objects a frame, the old one 2.00"
    assert view.stages == {"waiting": 20}
    versions = {here.fleet.view(f"belt-{number}").version for number in range(20)}
    assert versions == {1}


@pytest.mark.parametrize("phase", ["measuring", "shadow", "canary", "waves"])
def test_another_broker_goes_on_with_it(phase: str) -> None:
    here = site(12)
    plan = replace(PLAN, max_unavailable=2, limits=replace(PLAN.limits, shadow=4))
    here.fleet.reply(StartRollout("r", plan))
    while here.get().phase != phase:
        here.second()
    here.second()

    names = [f"edge-{number}" for number in range(12)]
    next_fleet = scripted_fleet(*names, records=here.records())
    next_fleet.obey()
    here.fleet = next_fleet
    again = here.get()
    view = here.until_over()

    assert again.phase == phase
    assert (view.phase, view.stages) == ("done", {"good": 12}), view.reason
    assert here.most_down <= 2
    assert not any("not compared" in entry.verdict for entry in view.entries)


def test_another_broker_goes_back_to_the_model_that_was_there_before() -> None:
    """Nothing but the store knows it: the devices have lost what they were told, too."""
    here = site(12)
    plan = replace(PLAN, canary=1.0, max_unavailable=3)
    here.fleet.reply(StartRollout("r", plan))
    while here.get().stages.get("good", 0) < 9:
        here.second()
    here.fleet.reply(CancelRollout("r"))
    here.second()

    names = [f"edge-{number}" for number in range(12)]
    before = here.get()
    here.fleet = scripted_fleet(*names, records=here.records())
    here.fleet.obey()
    again = here.get()
    view = here.until_over()

    assert (again.phase, again.reason, again.stages) == (before.phase, before.reason, before.stages)
    assert before.phase == "returning"
    assert 0 < before.stages["good"] < 9
    assert view.phase == "returned"
    assert view.stages.keys() <= {"back", "waiting"}
    assert here.models() == {OLD.id}
    assert here.most_down <= 3


def test_a_write_that_the_store_rejects_is_made_again() -> None:
    here = site(3)
    here.fleet.reply(StartRollout("r", PLAN))
    while here.get().phase == "measuring":
        here.fleet.store_down = True
        here.second()
        here.fleet.store_down = False
        here.second()

    assert here.until_over().phase == "done"
    assert here.models() == {NEW.id}


def test_an_end_that_the_store_rejects_is_written_again() -> None:
    here = site(3)
    here.fleet.reply(StartRollout("r", PLAN))

    here.fleet.store_down = True
    here.fleet.error(CancelRollout("r", keep=True))
    before = here.get().phase
    here.fleet.store_down = False
    here.second()

    assert before == "measuring"
    assert here.get().phase == "stopped"
    assert here.fleet.reply(StartRollout("s", PLAN)).phase == "measuring"


def test_a_beginning_that_the_store_rejects_is_forgotten() -> None:
    here = site(3)
    first = replace(PLAN, selector={"n": "1"})
    here.fleet.reply(PutPipeline(pipeline_id="belt-1", spec=CAMERA, device="edge-1", labels={"n": "1"}))
    here.fleet.reply(StartRollout("r", first))

    here.fleet.store_down = True
    here.fleet.error(StartRollout("s", replace(PLAN, selector={"n": "2"})))
    here.fleet.error(StartRollout("s", PLAN))
    here.fleet.store_down = False
    here.fleet.reply(CancelRollout("r", keep=True))
    here.second()

    assert [view.id for view in here.fleet.reply(ListRollouts())] == ["r"]
    assert here.fleet.reply(StartRollout("s", PLAN)).phase == "measuring"


def test_a_cancelled_one_goes_back_or_keeps_what_there_is() -> None:
    here = site(20)
    plan = replace(PLAN, canary=0.5, max_unavailable=20)

    outcomes = []
    for number, keep in enumerate((True, False)):
        here.fleet.reply(StartRollout(f"r{number}", plan))
        while here.get(f"r{number}").phase != "canary":
            here.second()
        here.fleet.reply(CancelRollout(f"r{number}", keep))
        here.second()
        outcomes.append((here.until_over(f"r{number}").phase, sorted(here.models())))
    over = here.fleet.error(CancelRollout("r1"))

    assert outcomes == [("stopped", [OLD.id, NEW.id]), ("returned", [OLD.id, NEW.id])]
    assert over.message == "roll-out r1 is over: it is returned"
    # Those that kept the new model were no part of the second one.
    assert here.get("r1").stages == {"back": 5, "waiting": 5}


def test_a_pipeline_is_part_of_one_roll_out_at_a_time_and_the_same_request_is_one() -> None:
    here = site(3)
    here.fleet.reply(StartRollout("r", PLAN))

    again = here.fleet.reply(StartRollout("r", PLAN))
    other = here.fleet.error(StartRollout("r", replace(PLAN, max_unavailable=1)))
    taken = here.fleet.error(StartRollout("s", PLAN))

    assert again == here.get()
    assert other.message == "there is another roll-out r"
    assert taken.message == "pipeline belt-0 is part of the roll-out r: wait for its end, or cancel it"


def test_what_cannot_be_rolled_out_is_refused_with_the_reason() -> None:
    here = site(2)

    nothing = here.fleet.error(StartRollout("r", replace(PLAN, old=ModelRef("no/1", "0" * 64))))
    same = here.fleet.error(StartRollout("r", replace(PLAN, new=OLD)))
    unknown = here.fleet.error(GetRollout("r"))

    assert nothing.message == "no pipeline uses no/1"
    assert same.message == "expected another model than parts/1"
    assert unknown.message == "no roll-out r"


def test_only_selected_pipelines_move() -> None:
    here = site(4)
    for number in (1, 3):
        here.fleet.reply(
            PutPipeline(
                pipeline_id=f"belt-{number}", spec=CAMERA, device=f"edge-{number}", labels={"site": "hall-1"}
            )
        )

    here.fleet.reply(StartRollout("r", replace(PLAN, selector={"site": "hall-1"})))
    view = here.until_over()

    assert [entry.pipeline_id for entry in view.entries] == ["belt-1", "belt-3"]
    assert here.models() == {OLD.id, NEW.id}


def test_the_last_ones_are_known_and_few_run_at_the_same_time() -> None:
    here = site(1)
    for number in range(MAX_ROLLOUTS + 3):
        here.fleet.reply(StartRollout(f"r{number}", PLAN))
        here.fleet.reply(CancelRollout(f"r{number}", keep=True))

    known = here.fleet.reply(ListRollouts())

    assert [view.id for view in known] == [f"r{number}" for number in range(3, MAX_ROLLOUTS + 3)]
    assert {view.entries for view in known} == {()}
    many = site(MAX_ACTIVE_ROLLOUTS + 1)
    for number in range(MAX_ACTIVE_ROLLOUTS + 1):
        put = PutPipeline(
            pipeline_id=f"belt-{number}", spec=CAMERA, device=f"edge-{number}", labels={"n": str(number)}
        )
        many.fleet.reply(put)
    plans = [replace(PLAN, selector={"n": str(number)}) for number in range(MAX_ACTIVE_ROLLOUTS + 1)]
    for number, plan in enumerate(plans[:-1]):
        many.fleet.reply(StartRollout(f"r{number}", plan))
    assert many.fleet.error(StartRollout("more", plans[-1])).code == "too_many"


def test_the_largest_trials_fit_beside_the_largest_pipelines() -> None:
    trials = Trials(
        ("ab" * 32,) * MAX_MEASURED_MODELS,
        (
            Shadow(
                pipeline_id="p" * 64,
                model=ModelRef(f"{'m' * 64}/{'v' * 64}", "ab" * 32),
                share=0.123456789,
                dataset="d" * 64,
            ),
        )
        * MAX_SHADOWS,
    )

    without, whole = (size(Desired(1, (), None, each)) for each in (None, trials))

    assert MAX_DESIRED_SIZE + whole - without + OPTIMISATION <= MAX_CONTROL_BODY
