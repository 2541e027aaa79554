"""What the fleet promises under faults, tried on the real state machines of both sides. (protocol.md 1.9)

I1  what is accepted of a movable pipeline has rising keys
I2  no two devices emit one movable pipeline
I3  after the faults, what runs is what the store holds
I4  after a confirmed stop a pipeline never emits again

A test's name ends with its seed. STREAMFLEET_SEEDS=2000 tries so many.
"""

from __future__ import annotations

import os

import pytest

from tests.fakes.simulation import Violation, simulate

SEEDS = range(int(os.environ.get("STREAMFLEET_SEEDS", "50")))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fleet_keeps_its_promises(seed: int) -> None:
    simulate(seed)


def test_the_faults_make_pipelines_move() -> None:
    """Or the simulation would prove nothing."""
    worlds = [simulate(seed) for seed in range(5)]

    assert sum(world.moves for world in worlds) > 10
    assert sum(world.handovers for world in worlds) > 10


@pytest.mark.parametrize("rule", [{"self_stop": 1000.0}, {"lease": 6.0}])
def test_without_a_rule_the_promises_are_broken(rule: dict[str, float]) -> None:
    """A worker that never fences itself, and a broker whose lease ends before the worker's."""

    def breaks(seed: int) -> bool:
        try:
            simulate(seed, **rule)
        except Violation as violation:
            return "I2" in str(violation)
        return False

    assert any(breaks(seed) for seed in range(20))
