"""Sources share the engine's slots, and none waits for another."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from streamfleet_worker.camera.slot_scheduler import IN_FLIGHT, STUCK, SlotScheduler


@dataclass(slots=True)
class Frame:
    """A frame in a slot."""

    slot: int
    submitted_at: float = 0.0
    ready_at: float | None = None


def test_sources_take_turns_for_as_long_as_one_of_them_submits() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(3)
    left = Counter({0: 3, 1: 0, 2: 1})
    asked: list[int] = []

    def submit(source: int) -> bool:
        asked.append(source)
        left[source] -= 1
        return left[source] >= 0

    scheduler.submit_in_turn(submit)

    assert asked == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_who_was_asked_last_is_asked_last_the_next_time_too() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(2)
    asked: list[int] = []
    answers = iter([True, False, False, True, False, False])

    def submit(source: int) -> bool:
        asked.append(source)
        return next(answers)

    scheduler.submit_in_turn(submit)
    scheduler.submit_in_turn(submit)

    assert asked == [0, 1, 0, 1, 0, 1]


def test_a_source_has_at_most_three_frames_in_flight() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(1)
    for slot in range(IN_FLIGHT):
        assert scheduler.has_room(0, free=10)
        scheduler.add(0, Frame(slot))

    assert not scheduler.has_room(0, free=10)
    scheduler.check()


def test_a_slot_is_left_to_each_other_source_that_has_none() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(3)
    scheduler.add(0, Frame(0))

    assert (scheduler.has_room(0, free=2), scheduler.has_room(0, free=3)) == (False, True)
    assert scheduler.has_room(1, free=1)
    scheduler.add(1, Frame(1))
    assert (scheduler.has_room(0, free=1), scheduler.has_room(0, free=2)) == (False, True)
    scheduler.check()


def test_no_slot_is_left_to_a_source_that_has_ended() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(2)
    scheduler.add(0, Frame(0))
    before = scheduler.has_room(0, free=1)

    scheduler.end(1)

    assert (before, scheduler.has_room(0, free=1)) == (False, True)
    scheduler.check()


def test_an_answer_finds_the_frame_of_its_slot() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(2)
    frames = [Frame(slot) for slot in range(3)]
    for source, frame in zip((0, 1, 0), frames, strict=True):
        scheduler.add(source, frame)

    found = [scheduler.find(slot) for slot in (2, 0, 1)]

    assert found == [(0, frames[2]), (0, frames[0]), (1, frames[1])]


def test_the_frames_of_a_source_leave_in_their_order() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(2)
    first, second = Frame(0), Frame(1)
    for frame in (first, second):
        scheduler.add(0, frame)
    second.ready_at = 1.0
    early = scheduler.next_ready(0)
    first.ready_at = 2.0
    left = []
    while (frame_or_none := scheduler.next_ready(0)) is not None:
        left.append(frame_or_none)
        scheduler.remove_oldest(0)

    assert (early, left) == (None, [first, second])
    assert not scheduler.has_frames(0)
    assert scheduler.next_ready(1) is None


def test_what_a_dead_engine_answered_for_is_kept() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(2)
    answered, lost, of_another = Frame(0, ready_at=1.0), Frame(1), Frame(2)
    for source, frame in ((0, answered), (0, lost), (1, of_another)):
        scheduler.add(source, frame)

    removed = scheduler.remove_unanswered(0)

    assert removed == [lost]
    assert (scheduler.next_ready(0), scheduler.find(2)) == (answered, (1, of_another))
    scheduler.check()


@pytest.mark.parametrize(
    ("ready_at", "now", "stuck"),
    [(None, STUCK, False), (None, STUCK + 0.01, True), (0.5, STUCK + 9, False)],
    ids=["in time", "too long", "answered"],
)
def test_the_engine_is_to_blame_after_a_second(ready_at: float | None, now: float, stuck: bool) -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(2)
    idle = scheduler.is_stuck(now)

    scheduler.add(1, Frame(0, submitted_at=0.0, ready_at=ready_at))

    assert (idle, scheduler.is_stuck(now)) == (False, stuck)


@pytest.mark.parametrize("seed", range(20))
def test_every_source_gets_a_slot_whatever_the_others_do(seed: int) -> None:
    """Busy sources submit as often as they may; the engine answers in any order."""
    chance = random.Random(seed)
    sources = chance.randint(1, 8)
    scheduler: SlotScheduler[Frame] = SlotScheduler(sources)
    free = list(range(IN_FLIGHT + sources - 1))
    waits = [False] * sources  # whether the source has a frame to submit

    def submit(source: int) -> bool:
        if not waits[source] or not scheduler.has_room(source, len(free)):
            return False
        scheduler.add(source, Frame(free.pop()))
        waits[source] = chance.random() < 0.7
        return True

    for _ in range(300):
        waits = [each or chance.random() < 0.3 for each in waits]
        scheduler.submit_in_turn(submit)
        scheduler.check()
        assert not any(
            waiting and not scheduler.has_frames(source) for source, waiting in enumerate(waits)
        ), "a source waits and has no slot"

        busy = sorted(set(range(IN_FLIGHT + sources - 1)) - set(free))
        if busy:
            _, frame = scheduler.find(chance.choice(busy))
            frame.ready_at = 1.0
        for source in range(sources):
            while (ready := scheduler.next_ready(source)) is not None:
                scheduler.remove_oldest(source)
                free.append(ready.slot)


def test_a_slot_that_waits_for_its_turn_counts_as_one_of_the_source() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(2)

    scheduler.request_turn(0, slot=5, decoded_at=0.5, now=1.0)
    waits = (scheduler.waits_for_turn(0), scheduler.waits_for_turn(1))
    room_before = scheduler.has_room(0, free=1), scheduler.has_room(1, free=1)
    source = scheduler.source_in_turn(5)

    assert waits == (True, False)
    assert room_before == (False, True)  # a slot is left to the other source
    assert (source, scheduler.waits_for_turn(0)) == (0, False)
    scheduler.check()


def test_the_engine_is_told_once_of_a_newer_frame() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(1)
    scheduler.request_turn(0, slot=5, decoded_at=0.5, now=1.0)

    told = [scheduler.refresh_request(0, decoded_at) for decoded_at in (0.5, 1.5, 1.5)]

    assert told == [None, 5, None]
    assert scheduler.is_stuck(1.01 + STUCK)  # it waits since the first request


def test_a_turn_that_does_not_come_is_the_engines_fault_after_a_second() -> None:
    scheduler: SlotScheduler[Frame] = SlotScheduler(1)
    scheduler.request_turn(0, slot=5, decoded_at=0.5, now=1.0)

    stuck = scheduler.is_stuck(1.0 + STUCK), scheduler.is_stuck(1.01 + STUCK)
    forgotten = scheduler.forget_request(0), scheduler.forget_request(0)

    assert (stuck, forgotten) == ((False, True), (5, None))
    assert not scheduler.is_stuck(9.0)
