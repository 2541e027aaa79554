"""What the fleet promises under faults, tried on the real state machines of both sides. (protocol.md 1.9)

I1  what is accepted of a movable pipeline has rising keys
I2  no two devices emit one movable pipeline
I3  after the faults, what runs is what the store holds
I4  after a confirmed stop a pipeline never emits again
I5  what an operator was answered is in the store
I6  nothing moves while most of the fleet is silent at once

R1  no more pipelines may be down by a roll-out of a model at the same time than its plan says
R2  when roll-outs are over, each pipeline uses one model: the new one, or the one before if they returned

Operators drain and rebalance devices meanwhile, and the cameras of some pipelines crash wherever they start.

A test's name ends with its seed. `make simulate` tries more of them. That each rule of the protocol is needed
for these promises is tested in `test_missing_rules`.
"""

from __future__ import annotations

import os

import pytest

from streamfleet_worker.decisions.reconcile_actions import Action
from streamfleet_worker.decisions.reconciler import Reconcile
from tests.fakes import simulation
from tests.fakes.simulation import MODELS, simulate, simulate_mixed

SEEDS = range(int(os.environ.get("STREAMFLEET_SEEDS", "200")))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fleet_keeps_its_promises(seed: int) -> None:
    simulate_mixed(seed)


def test_roll_outs_go_on_among_the_faults() -> None:
    """Or the simulation would prove nothing of them."""
    worlds = [simulate(seed, rolls=True) for seed in range(8)]

    assert {world.new_model for world in worlds} == set(MODELS)
    assert sum(world.switched for world in worlds) > 5


# A model that can never work, a pipeline that goes on with its former one, and an agent that is killed.
@pytest.mark.parametrize("seed", [290, 386])
def test_seeds_that_broke_a_promise_keep_it(seed: int) -> None:
    simulate_mixed(seed)


class Restless(Reconcile):
    """Looks at everything at each tick."""

    def tick(self, now: float) -> list[Action]:
        self._wake_up()
        return super().tick(now)


@pytest.mark.parametrize("seed", range(3))
def test_a_device_that_looks_only_when_something_is_due_decides_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = simulate_mixed(seed)

    monkeypatch.setattr(simulation, "Reconcile", Restless)
    restless = simulate_mixed(seed)

    # Whatever happens takes numbers from it: one decision at another moment, and all that follows differs.
    assert world.rng.getstate() == restless.rng.getstate()


def test_the_faults_make_pipelines_move() -> None:
    """Or the simulation would prove nothing."""
    worlds = [simulate(seed, moves=True) for seed in range(16)]

    assert sum(world.moves for world in worlds) > 10
    assert sum(world.handovers for world in worlds) > 10
    assert sum(world.prepared for world in worlds) > 0
    assert sum(world.displaced for world in worlds) > 0
    assert sum(world.given_up for world in worlds) > 0
