"""Sources take turns at the engine, and a live slot is filled shortly before its turn."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from streamfleet_worker.engine.turns.turn_queue import ANSWER, SlotBusy, TurnQueue


def take_all(turns: TurnQueue[str]) -> list[tuple[str, int]]:
    return turns.take(1.0, 100)


def test_sources_take_turns_whoever_asked_more() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for slot in range(3):
        turns.fill("a", 0, slot, 0.0)
    turns.fill("b", 0, 0, 0.0)
    turns.fill("c", 0, 0, 0.0)

    assert take_all(turns) == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("a", 2)]
    turns.check()


def test_each_source_of_a_camera_has_a_turn_of_its_own() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.fill("two sources", 0, 0, 0.0)
    turns.fill("two sources", 1, 1, 0.0)
    turns.fill("one source", 0, 0, 0.0)
    turns.fill("two sources", 0, 2, 0.0)

    assert take_all(turns) == [("two sources", 0), ("two sources", 1), ("one source", 0), ("two sources", 2)]
    turns.check()


def test_a_slot_cannot_wait_or_run_twice() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.fill("a", 0, 0, 0.0)
    turns.fill("a", 0, 1, 0.0)
    turns.request_turn("a", 1, 2, 1.0)
    turns.take(1.0)

    for slot in (0, 1):
        with pytest.raises(SlotBusy):
            turns.fill("a", 0, slot, 0.0)
    for slot in (0, 1, 2):
        with pytest.raises(SlotBusy):
            turns.request_turn("a", 0, slot, 1.0)
    for slot in (0, 1, 3):
        with pytest.raises(SlotBusy):
            turns.withdraw("a", slot)

    turns.finish("a", 0)
    turns.fill("a", 0, 0, 0.0)
    assert [*turns.take(1.0), *turns.take(1.0)] == [("a", 1), ("a", 0)]
    turns.check()


def test_a_camera_that_left_has_no_turn() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.fill("a", 0, 0, 0.0)
    turns.fill("b", 0, 0, 0.0)
    turns.request_turn("a", 1, 1, 1.0)

    turns.forget("a")
    turns.forget("nobody")

    assert (turns.has_requests, take_all(turns)) == (False, [("b", 0)])
    turns.check()


def test_only_the_next_slot_is_filled_while_all_threads_infer() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for camera in "abc":
        turns.request_turn(camera, 0, 0, 1.0)

    first = turns.ask(1.0, ahead=1)
    again = turns.ask(1.0, ahead=1)
    turns.fill("a", 0, 0, 0.0)
    filled = turns.ask(1.0, ahead=1)
    turns.take(1.0)
    after = turns.ask(1.0, ahead=1)

    assert (first, again, filled, after) == ([("a", 0)], [], [], [("b", 0)])
    assert turns.has_requests
    turns.check()


def test_the_source_with_the_newest_frame_is_asked_first() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for at, camera in enumerate("abc"):
        turns.request_turn(camera, 0, 0, at / 10)
    turns.request_turn("a", 0, 0, 0.5)

    first = turns.ask(0.5, ahead=1)
    turns.request_turn("c", 0, 0, 0.6)  # too late for the slot that is being filled
    still = turns.ask(0.6, ahead=1)
    turns.fill("a", 0, 0, 0.6)
    turns.take(0.6)

    assert (first, still, turns.ask(0.6, ahead=2)) == ([("a", 0)], [], [("c", 0), ("b", 0)])
    turns.check()


def test_no_frame_is_chosen_beside_one_that_waits_to_run() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for at in (0.0, 1.0, 2.0):  # the third one waits to run
        turns.finish("a", 0)
        turns.request_turn("a", 0, 0, at)
        turns.ask(at, ahead=1)
        turns.fill("a", 0, 0, at)
        if at < 2.0:
            turns.take(at)
    turns.request_turn("b", 0, 0, 2.0)

    assert turns.ask(2.0, ahead=1) == []
    assert turns.ask(2.0, ahead=2) == [("b", 0)]


def test_of_two_frames_that_wait_to_run_the_older_one_is_first() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.request_turn("b", 0, 0, 0.0)
    for at in (0.9, 1.0):  # the frame of b is old, so that a is a round ahead
        turns.request_turn("a", 0, 0, at)
        turns.ask(at, ahead=1)
        turns.fill("a", 0, 0, at)
        if at < 1.0:
            turns.take(at)
            turns.finish("a", 0)
    turns.request_turn("b", 0, 0, 1.1)
    turns.ask(1.1, ahead=2)
    turns.fill("b", 0, 0, 1.1)

    assert turns.take(1.1, 2) == [("a", 0), ("b", 0)]


def test_each_idle_thread_gets_a_slot_and_one_more_is_filled() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for camera in "abcd":
        turns.request_turn(camera, 0, 0, 1.0)

    assert turns.ask(1.0, ahead=3) == [("a", 0), ("b", 0), ("c", 0)]


def test_files_do_not_keep_a_live_source_from_its_turn() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.fill("file", 0, 0, 0.0)
    turns.request_turn("live", 0, 0, 1.0)
    turns.fill("file", 0, 1, 0.0)

    asked = []
    order = []
    for slot in (2, 3, 4):
        order += [camera for camera, _ in turns.take(1.0)]
        for camera, wanted in turns.ask(1.0, ahead=1):
            asked.append(camera)
            turns.fill(camera, 0, wanted, 0.0)
        turns.fill("file", 0, slot, 0.0)

    assert (asked, order) == (["live"], ["file", "live", "file"])
    turns.check()


def test_the_turn_of_a_source_that_is_filling_goes_to_another_and_it_comes_right_after() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.request_turn("slow", 0, 0, 1.0)
    turns.ask(1.0, ahead=1)
    turns.fill("a", 0, 0, 0.0)
    turns.fill("b", 0, 0, 0.0)

    first = turns.take(1.0)
    turns.fill("slow", 0, 0, 0.0)

    assert (first, turns.take(1.0)) == ([("a", 0)], [("slow", 0)])
    turns.check()


def test_a_source_that_does_not_fill_its_slot_holds_up_nobody() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for camera in ("dead", "b", "c"):
        turns.request_turn(camera, 0, 0, 1.0)

    first = turns.ask(1.0, ahead=1)
    in_time = turns.ask(1.0 + ANSWER * 0.9, ahead=1)
    too_late = turns.ask(1.0 + ANSWER, ahead=1)
    turns.fill("b", 0, 0, 0.0)

    assert (first, in_time, too_late, turns.take(1.0)) == ([("dead", 0)], [], [("b", 0)], [("b", 0)])


def test_a_turn_may_be_declined() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.request_turn("paused", 0, 0, 1.0)
    turns.request_turn("b", 0, 0, 1.0)
    turns.ask(1.0, ahead=1)

    turns.withdraw("paused", 0)

    assert turns.ask(1.0, ahead=1) == [("b", 0)]
    turns.request_turn("paused", 0, 0, 1.0)
    turns.check()


def test_a_batch_has_one_slot_of_each_source_before_a_second_one() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for slot in range(3):
        turns.fill("a", 0, slot, 1.0)
    turns.fill("b", 0, 0, 2.0)
    turns.request_turn("c", 0, 0, 1.0)

    before = (turns.filled, turns.oldest)
    batch = turns.take(1.0, 3)

    assert before == (4, 1.0)
    assert batch == [("a", 0), ("b", 0), ("a", 1)]
    assert (turns.filled, turns.take(1.0, 3), turns.filled, turns.oldest) == (1, [("a", 2)], 0, 0.0)
    turns.check()


def test_only_cameras_that_answer_in_time_are_expected() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for camera in "abc":
        turns.request_turn(camera, 0, 0, 1.0)

    turns.ask(1.0, ahead=2)

    assert (turns.coming(1.0), turns.coming(1.0 + ANSWER)) == (2, 0)
    turns.fill("a", 0, 0, 1.001)
    assert turns.coming(1.001) == 1


def test_a_higher_priority_is_run_first_and_a_lower_one_has_every_tenth_turn() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.set_priority("high", "high")
    turns.set_priority("low", "low")
    for slot in range(3):
        turns.fill("low", 0, slot, 0.0)
        turns.fill("normal", 0, slot, 0.0)
    for slot in range(20):
        turns.fill("high", 0, slot, 0.0)

    order = [camera for camera, _ in take_all(turns)]

    assert order[:9] == ["high"] * 9
    assert order[9:11] == ["normal", "low"]
    assert order[11:20] == [*["high"] * 8, "normal"]
    assert order[20:] == ["low", "high", "high", "high", "normal", "low"]
    turns.check()


def test_a_camera_of_higher_priority_is_asked_first() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for camera in ("a", "b"):
        turns.request_turn(camera, 0, 0, 1.0)
    turns.set_priority("high", "high")
    turns.request_turn("high", 0, 0, 1.0)

    assert turns.ask(1.0, ahead=2) == [("high", 0), ("a", 0)]


def test_a_live_source_of_low_priority_is_asked_when_its_turn_comes() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.set_priority("low", "low")
    turns.request_turn("low", 0, 0, 1.0)
    for slot in range(30):
        turns.fill("greedy", 0, slot, 0.0)
    order = []

    for run in range(30):
        ((camera, slot),) = turns.take(1.0)
        order.append(camera)
        for asked, wanted in turns.ask(float(run), ahead=1):  # while it runs
            turns.fill(asked, 0, wanted, float(run))
        turns.finish(camera, slot)
        if camera == "low":
            turns.request_turn("low", 0, 0, 1.0)
        turns.check()

    assert [run for run, camera in enumerate(order) if camera == "low"] == [9, 19, 29]


def test_a_camera_of_low_priority_that_does_not_answer_costs_the_others_of_it_no_turn() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for camera in ("dead", "low"):
        turns.set_priority(camera, "low")
        turns.request_turn(camera, 0, 0, 1.0)
    turns.ask(0.0, ahead=1)  # the dead one
    for slot in range(11):
        turns.fill("greedy", 0, slot, 0.0)
    turns.take(1.0, 9)

    asked = turns.ask(ANSWER, ahead=1)
    turns.fill("low", 0, 0, ANSWER)

    assert (asked, turns.take(1.0)) == ([("low", 0)], [("low", 0)])


def test_another_priority_holds_for_slots_that_wait_already() -> None:
    turns: TurnQueue[str] = TurnQueue()
    for slot in range(2):
        turns.fill("a", 0, slot, 0.0)
        turns.fill("b", 0, slot, 0.0)
    turns.request_turn("b", 1, 2, 1.0)

    turns.set_priority("b", "high")
    turns.check()
    first = turns.take(1.0, 2)
    turns.set_priority("b", "low")
    turns.check()
    turns.forget("b")
    turns.check()

    assert (first, take_all(turns)) == ([("b", 0), ("b", 1)], [("a", 0), ("a", 1)])
    turns.fill("b", 0, 3, 0.0)  # another camera: its priority is normal
    turns.fill("a", 0, 2, 0.0)
    assert take_all(turns) == [("b", 3), ("a", 2)]


def test_no_frame_waits_for_one_of_a_lower_priority() -> None:
    turns: TurnQueue[str] = TurnQueue()
    turns.set_priority("low", "low")
    turns.set_priority("high", "high")
    for camera in ("low", "b"):
        turns.request_turn(camera, 0, 0, 1.0)
    turns.ask(1.0, ahead=8)

    nobody = turns.coming(1.0)
    turns.fill("a", 0, 0, 1.0)
    normal = turns.coming(1.0)
    turns.fill("high", 0, 0, 1.0)

    assert (nobody, normal, turns.coming(1.0)) == (2, 1, 0)


class Sources:
    """Five sources at random: odd ones are files, even ones are cameras that fill their slots, or do not."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.turns: TurnQueue[int] = TurnQueue()
        self.waited: Counter[int] = Counter()  # runs of others since a file has had a filled slot
        self._held: dict[int, set[int]] = {source: set() for source in range(5)}
        self._asked: set[tuple[int, int]] = set()
        self._now = 0.0

    def step(self) -> None:
        self._now += self.chance.choice([0.0, 0.001, ANSWER])
        action = self.chance.random()
        if action < 0.5:
            self._request(self.chance.randrange(5))
        elif action < 0.7:
            self._answer()
        else:
            self._run()

    def _request(self, source: int) -> None:
        is_file = source % 2 == 1
        if len(self._held[source]) >= (3 if is_file else 1):
            return
        slot = min(set(range(3)) - self._held[source])
        if is_file:
            self.waited[source] = self.waited[source] if self._held[source] else 0
            self.turns.fill(source, 0, slot, 0.0)
        else:
            self.turns.request_turn(source, 0, slot, self._now)
        self._held[source].add(slot)

    def _answer(self) -> None:
        if not self._asked:
            return
        source, slot = self._asked.pop()
        if self.chance.random() < 0.2:
            self.turns.withdraw(source, slot)
            self._held[source].discard(slot)
        else:
            self.turns.fill(source, 0, slot, 0.0)

    def _run(self) -> None:
        for source, slot in self.turns.take(self._now):
            self._ran(source, slot)

    def _ran(self, source: int, slot: int) -> None:
        self._asked |= set(self.turns.ask(self._now, ahead=self.chance.randint(1, 3)))
        self.turns.finish(source, slot)
        self._held[source].discard(slot)
        self.waited.update(other for other in (1, 3) if other != source and self._held[other])
        self.waited[source] = 0


@pytest.mark.parametrize("seed", range(20))
def test_no_source_waits_for_more_than_a_few_runs_of_each_other(seed: int) -> None:
    sources = Sources(seed)

    for _ in range(500):
        sources.step()
        sources.turns.check()

        assert max(sources.waited.values(), default=0) <= 3 * 4
