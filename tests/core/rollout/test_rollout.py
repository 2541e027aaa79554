"""A roll-out on a fleet in which time passes by seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from streamfleet_core.protocol.tasks.rollouts import RolloutLimits
from streamfleet_core.protocol.tasks.trials import ShadowCounts, ShadowStat
from streamfleet_core.rollout.figures import Seen
from streamfleet_core.rollout.rollout import Note, Plan, Progress, Rollout, Switch, canaries_of, spread

OLD, NEW = "parts/1", "parts/2"


@dataclass
class Model:
    """What a pipeline does with a model."""

    fps: int = 10
    objects: int = 2  # in each frame
    latency: float = 0.04
    crashes: bool = False
    fails: bool = False


@dataclass
class World:
    """Pipelines of devices. `switch` is what an operator does, and `second` lets time pass."""

    pipelines: dict[str, Seen]
    new: Model = field(default_factory=Model)
    old: Model = field(default_factory=Model)
    starting: float = 3  # seconds for which a pipeline is down after a change
    loses: Callable[[Switch], bool] = lambda _: False
    now: float = 0.0
    most_down: int = 0
    notes: list[Note] = field(default_factory=list)
    switched: list[Switch] = field(default_factory=list)
    _until: dict[str, float] = field(default_factory=dict)

    def switch(self, action: Switch) -> None:
        self.switched.append(action)
        if self.loses(action):
            return
        before = self.pipelines[action.pipeline_id]
        self.pipelines[action.pipeline_id] = replace(
            before, model=action.model, status="starting", restarts=0, frames=0, objects=0
        )
        self._until[action.pipeline_id] = self.now + self.starting

    def second(self) -> None:
        self.now += 1
        for name, seen in self.pipelines.items():
            model = self.new if seen.model == NEW else self.old
            if seen.status == "starting" and self.now >= self._until[name]:
                seen = replace(seen, status="failed" if model.fails else "running", reason="opset 99")
            if seen.status == "running":
                seen = replace(
                    seen,
                    frames=seen.frames + model.fps,
                    objects=seen.objects + model.fps * model.objects,
                    latency=model.latency,
                    restarts=int(model.crashes),
                    uses_new=seen.model == NEW,
                    at=self.now,
                )
            self.pipelines[name] = seen
        down = sum(seen.status not in ("running", "paused") for seen in self.pipelines.values())
        self.most_down = max(self.most_down, down)

    def run(self, rollout: Rollout, *, at_most: int = 3000) -> None:
        """Until the roll-out is over."""
        for _ in range(at_most):
            for action in rollout.step(self.pipelines, self.now):
                if isinstance(action, Switch):
                    self.switch(action)
                else:
                    self.notes.append(action)
            if rollout.is_over:
                return
            self.second()
        raise AssertionError(f"it is not over: {rollout.phase}, {rollout.verdicts()}")

    def models(self) -> set[str]:
        return {seen.model for seen in self.pipelines.values()}


def world(count: int, **more: Any) -> World:
    pipelines = {
        f"belt-{number}": Seen(model=OLD, status="running", device=f"edge-{number % 4}")
        for number in range(count)
    }
    return World(pipelines, **more)


def rollout(
    of: World, *, canary: float = 0.05, max_unavailable: int = 5, shadow: float = 0, **limits: Any
) -> Rollout:
    names = spread({name: seen.device for name, seen in of.pipelines.items()})
    plan = Plan(
        old=OLD,
        new=NEW,
        canaries=canaries_of(len(names), canary),
        max_unavailable=max_unavailable,
        limits=RolloutLimits(observe=10, shadow=shadow, **limits),
    )
    return Rollout(plan, dict.fromkeys(names, Progress()))


def test_a_good_model_reaches_all_pipelines_and_never_more_than_some_are_down() -> None:
    fleet = world(100)
    moves = rollout(fleet)

    fleet.run(moves)

    assert moves.phase == "done"
    assert fleet.models() == {NEW}
    assert fleet.most_down == 5
    assert len(fleet.switched) == 100


def test_the_canaries_are_first_and_on_different_devices() -> None:
    fleet = world(40)
    moves = rollout(fleet, canary=0.1)
    while not fleet.switched:
        for action in moves.step(fleet.pipelines, fleet.now):
            if isinstance(action, Switch):
                fleet.switch(action)
        fleet.second()

    devices = [fleet.pipelines[each.pipeline_id].device for each in fleet.switched]
    assert sorted(filter(None, devices)) == ["edge-0", "edge-1", "edge-2", "edge-3"]


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (Model(objects=0), "it finds 0.00 objects a frame, before 2.00"),
        (Model(latency=0.5), "it takes 500 ms from capture to prediction, before 40 ms"),
        (Model(fps=4), "it gives 4.0 frames/s, before 10.0"),
        (Model(fps=0), "it emits nothing"),
        (Model(crashes=True), "it crashed: opset 99"),
        (Model(fails=True), "it has failed: opset 99"),
    ],
)
def test_a_worse_model_stops_at_the_canaries_and_all_are_back(new: Model, reason: str) -> None:
    fleet = world(60, new=new)
    moves = rollout(fleet)

    fleet.run(moves)

    assert moves.phase == "returned"
    assert reason in moves.reason
    assert fleet.models() == {OLD}
    assert {each.pipeline_id for each in fleet.switched} == {"belt-0", "belt-1", "belt-10"}
    bad = next(note for note in fleet.notes if note.text.startswith("bad"))
    assert reason in bad.text


def test_a_model_that_gets_worse_later_takes_the_good_ones_back_without_a_greater_outage() -> None:
    fleet = world(30)
    moves = rollout(fleet, max_unavailable=3)
    while sum("good" in text for text in map(str, fleet.notes)) < 12:
        for action in moves.step(fleet.pipelines, fleet.now):
            if isinstance(action, Switch):
                fleet.switch(action)
            else:
                fleet.notes.append(action)
        fleet.second()
    fleet.pipelines["belt-0"] = replace(fleet.pipelines["belt-0"], restarts=1)

    fleet.run(moves)

    assert moves.phase == "returned"
    assert fleet.models() == {OLD}
    assert fleet.most_down <= 4  # the wave of three, and the one that crashed


def test_an_empty_scene_tells_nothing_about_objects() -> None:
    fleet = world(4, old=Model(objects=0), new=Model(objects=0))
    moves = rollout(fleet)

    fleet.run(moves)

    assert moves.phase == "done"


def test_a_device_that_is_lost_takes_room_and_is_no_fault_of_the_model() -> None:
    fleet = world(12)
    fleet.pipelines["belt-11"] = replace(fleet.pipelines["belt-11"], status="moving")
    moves = rollout(fleet, max_unavailable=1)

    with pytest.raises(AssertionError, match="it is not over: canary"):
        fleet.run(moves, at_most=60)
    assert fleet.switched == []

    fleet.pipelines["belt-11"] = replace(fleet.pipelines["belt-11"], status="running")
    fleet.run(moves)
    assert moves.phase == "done"


def test_pipelines_that_others_remove_or_change_are_left_out() -> None:
    fleet = world(6)
    moves = rollout(fleet)
    moves.step(fleet.pipelines, 0.0)
    del fleet.pipelines["belt-1"]
    fleet.pipelines["belt-2"] = replace(fleet.pipelines["belt-2"], model="other/1")

    fleet.run(moves)

    assert moves.phase == "done"
    assert fleet.models() == {NEW, "other/1"}
    assert moves.verdicts()["belt-1"] == "it was removed"
    assert moves.verdicts()["belt-2"] == "it was given other/1"


def test_a_paused_pipeline_is_switched_and_not_compared() -> None:
    fleet = world(3)
    fleet.pipelines["belt-2"] = replace(fleet.pipelines["belt-2"], status="paused")
    fleet.switch = lambda action: (  # type: ignore[method-assign]
        World.switch(fleet, action)
        if action.pipeline_id != "belt-2"
        else fleet.pipelines.update({"belt-2": replace(fleet.pipelines["belt-2"], model=action.model)})
    )
    moves = rollout(fleet)

    fleet.run(moves)

    assert fleet.models() == {NEW}
    assert moves.verdicts()["belt-2"] == "not compared: it was not running, and is paused"


def test_a_change_that_got_lost_is_asked_for_again() -> None:
    fleet = world(3)
    lost: list[Switch] = []

    def loses(action: Switch) -> bool:
        lost.append(action)
        return len(lost) <= 2

    fleet.loses = loses
    moves = rollout(fleet)

    fleet.run(moves)

    assert moves.phase == "done"
    assert fleet.models() == {NEW}


def test_what_never_starts_is_bad() -> None:
    fleet = world(3, starting=float("inf"))
    moves = rollout(fleet, start=30)

    fleet.run(moves)

    assert moves.phase == "returned"
    assert moves.reason == "belt-0: it is starting after 51 s"
    assert fleet.models() == {OLD}


def shadow(**counts: Any) -> ShadowStat:
    known = {"frames": 50, "own_boxes": 100, "boxes": 100, "paired": 100, "same_class": 100}
    crashes = counts.pop("crashes", 0)
    state = counts.pop("state", "running")
    return ShadowStat(
        model=NEW,
        state=state,
        reason="opset 99",
        crashes=crashes,
        counts=ShadowCounts(**{**known, "own_latency": 0.02, "latency": 0.02, **counts}),
    )


def shadowed(fleet: World, moves: Rollout, stats: Callable[[float], ShadowStat | None]) -> list[str]:
    """Run until the shadow is over. The pipelines in which it infers frames."""
    names: set[str] = set()
    for _ in range(300):
        seen = {
            name: replace(each, shadow=stats(fleet.now) if name in moves.shadows else None)
            for name, each in fleet.pipelines.items()
        }
        moves.step(seen, fleet.now)
        names.update(moves.shadows)
        if moves.phase not in ("measuring", "shadow"):
            return sorted(names)
        fleet.second()
    raise AssertionError(f"it is not over: {moves.phase}")


@pytest.mark.parametrize(
    ("stat", "reason"),
    [
        (
            shadow(boxes=10, paired=10),
            "beside the old model, it finds 0.20 objects a frame, the old one 2.00",
        ),
        (shadow(boxes=100, paired=40), "beside the old model, it finds 40 of 100 objects of the old one"),
        (shadow(latency=0.5), "beside the old model, an inference takes 500 ms, of the old one 20 ms"),
        (shadow(failed=60), "beside the old model, 60 of 110 inferences failed"),
        (shadow(state="failed"), "it cannot be used: opset 99"),
        (shadow(crashes=1), "it crashed: opset 99"),
    ],
)
def test_a_worse_model_stops_as_a_shadow(stat: ShadowStat, reason: str) -> None:
    fleet = world(40)
    moves = rollout(fleet, shadow=5)

    names = shadowed(fleet, moves, lambda _: stat)

    assert names == ["belt-0", "belt-1"]
    assert moves.phase == "returned" or moves.step(fleet.pipelines, fleet.now) == []
    assert moves.reason == f"belt-0: {reason}"
    assert fleet.switched == []


def test_a_shadow_that_never_begins_is_bad_where_the_pipeline_runs() -> None:
    fleet = world(3)
    moves = rollout(fleet, shadow=5, start=20)

    shadowed(fleet, moves, lambda _: ShadowStat(model=NEW, state="waiting", reason="fetching model parts/2"))

    assert moves.reason == "belt-0: it has not inferred enough frames after 31 s: fetching model parts/2"


def test_a_model_that_cannot_be_loaded_is_bad_although_the_old_one_goes_on() -> None:
    fleet = world(3)
    moves = rollout(fleet)
    while not fleet.switched:
        for action in moves.step(fleet.pipelines, fleet.now):
            if isinstance(action, Switch):
                fleet.switched.append(action)
                before = fleet.pipelines[action.pipeline_id]
                fleet.pipelines[action.pipeline_id] = replace(before, model=NEW, trouble="opset 99")
        fleet.now += 1
        fleet.pipelines = {name: replace(each, at=fleet.now) for name, each in fleet.pipelines.items()}
        fleet.pipelines = {
            name: replace(each, frames=each.frames + 10, objects=each.objects + 20)
            for name, each in fleet.pipelines.items()
        }

    moves.step(fleet.pipelines, fleet.now)

    assert (moves.phase, moves.reason) == ("returning", "belt-0: it cannot be used: opset 99")


def returning(fleet: World, *, max_unavailable: int) -> Rollout:
    """A roll-out that goes back after six pipelines were good."""
    moves = rollout(fleet, max_unavailable=max_unavailable)
    while sum(stage == "good" for stage, _, _ in moves.stages().values()) < 6:
        for action in moves.step(fleet.pipelines, fleet.now):
            if isinstance(action, Switch):
                fleet.switch(action)
        fleet.second()
    moves.cancel(keep=False)
    return moves


def test_what_is_down_with_the_new_model_goes_back_at_once_and_takes_no_room() -> None:
    fleet = world(8)
    moves = returning(fleet, max_unavailable=1)
    good = [name for name, (stage, _, _) in moves.stages().items() if stage == "good"]
    for name in good[:4]:
        fleet.pipelines[name] = replace(
            fleet.pipelines[name], status="failed", reason="model parts/2: opset 99"
        )

    switched = {
        each.pipeline_id for each in moves.step(fleet.pipelines, fleet.now) if isinstance(each, Switch)
    }

    assert {*good[:4]} <= switched
    assert len(switched.intersection(good)) <= 5


def test_what_is_down_for_another_reason_holds_up_no_return() -> None:
    fleet = world(8)
    moves = returning(fleet, max_unavailable=1)
    waiting = next(name for name, (stage, _, _) in moves.stages().items() if stage in ("waiting", "switched"))
    fleet.pipelines[waiting] = replace(fleet.pipelines[waiting], status="pending")

    fleet.run(moves, at_most=200)

    assert moves.phase == "returned"
    assert fleet.models() == {OLD}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "failed", "reason": "model parts/2: opset 99"}, "it has failed: model parts/2: opset 99"),
        ({"trouble": "opset 99"}, "it cannot be used: opset 99"),
        ({"uses_new": True, "crashes": 1}, "it crashed: its engine was started again"),
        ({"status": "failed", "reason": "no such file"}, ""),
    ],
)
def test_a_pipeline_that_did_not_run_before_tells_of_the_model_only_what_it_is_to_blame_for(
    changes: dict[str, Any], reason: str
) -> None:
    fleet = world(2)
    fleet.pipelines = {name: replace(each, status="paused") for name, each in fleet.pipelines.items()}
    moves = rollout(fleet)
    while not fleet.switched:
        for action in moves.step(fleet.pipelines, fleet.now):
            if isinstance(action, Switch):
                fleet.switched.append(action)
        fleet.now += 1

    name = fleet.switched[0].pipeline_id
    fleet.pipelines[name] = replace(fleet.pipelines[name], model=NEW, **changes)
    moves.step(fleet.pipelines, fleet.now)

    assert moves.reason == (f"{name}: {reason}" if reason else "")
