"""Cameras take turns at the engine."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from streamfleet_worker.engine.batching import FairQueue, SlotBusy


def test_cameras_take_turns_whoever_asked_more() -> None:
    turns: FairQueue[str] = FairQueue()
    for slot in range(3):
        turns.add("a", slot)
    turns.add("b", 0)
    turns.add("c", 0)

    taken = [turns.take() for _ in range(6)]

    assert taken == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("a", 2), None]
    turns.check()


def test_a_slot_cannot_wait_or_run_twice() -> None:
    turns: FairQueue[str] = FairQueue()
    turns.add("a", 0)
    turns.add("a", 1)
    turns.take()

    for slot in (0, 1):
        with pytest.raises(SlotBusy):
            turns.add("a", slot)

    turns.finish("a", 0)
    turns.add("a", 0)
    assert [turns.take(), turns.take()] == [("a", 1), ("a", 0)]
    turns.check()


def test_a_camera_that_left_has_no_turn() -> None:
    turns: FairQueue[str] = FairQueue()
    turns.add("a", 0)
    turns.add("b", 0)
    turns.add("a", 1)

    turns.forget("a")
    turns.forget("nobody")

    assert [turns.take(), turns.take()] == [("b", 0), None]
    turns.check()


@pytest.mark.parametrize("seed", range(20))
def test_no_camera_waits_for_more_than_one_run_of_each_other(seed: int) -> None:
    chance = random.Random(seed)
    turns: FairQueue[int] = FairQueue()
    waiting: Counter[int] = Counter()  # runs of others since a camera began to wait
    asked: dict[int, set[int]] = {camera: set() for camera in range(5)}

    for _ in range(500):
        camera = chance.randrange(5)
        if chance.random() < 0.6 and len(asked[camera]) < 3:
            slot = min(set(range(3)) - asked[camera])
            if not asked[camera]:
                waiting[camera] = 0
            asked[camera].add(slot)
            turns.add(camera, slot)
        elif (turn := turns.take()) is not None:
            taken, slot = turn
            turns.finish(taken, slot)
            asked[taken].discard(slot)
            for other, slots in asked.items():
                if other != taken and slots:
                    waiting[other] += 1
                    assert waiting[other] <= 4
            waiting[taken] = 0
        turns.check()
