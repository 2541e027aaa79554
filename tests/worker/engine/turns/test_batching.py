"""Batches on an accelerator: rules, and what follows for cameras in virtual time.

The accelerator is a stand-in whose batch of n slots takes a + b·n seconds.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from streamfleet_core.protocol.values import Priority
from streamfleet_worker.engine.turns.batching import LONGEST_DELAY, MAX_DELAY, Batching, measured_rules
from streamfleet_worker.engine.turns.turn_queue import TurnQueue

RULES = Batching(max_batch=8)
START, EACH = 0.010, 0.001  # seconds: a + b·n
FILLING = 0.002  # seconds of a camera to fill its slot
FULL = START + EACH * RULES.max_batch  # seconds of a full batch


@pytest.mark.parametrize(
    ("filled", "coming", "running", "delay"),
    [
        (0, 3, 0, math.inf),
        (1, 0, 0, 0.0),
        (1, 1, 0, MAX_DELAY - 0.002),
        (8, 1, 0, 0.0),
        (8, 0, 1, math.inf),
    ],
    ids=["nothing to run", "nobody comes", "somebody comes", "full", "the accelerator is busy"],
)
def test_a_batch_waits_only_for_what_comes(filled: int, coming: int, running: int, delay: float) -> None:
    got = RULES.delay(filled=filled, coming=coming, oldest=9.998, running=running, now=10.0)

    assert got == pytest.approx(delay)


def test_a_batch_never_waits_for_longer_than_the_limit() -> None:
    assert RULES.delay(filled=1, coming=1, oldest=9.0, running=0, now=10.0) == 0


def test_without_batches_an_inference_begins_at_once() -> None:
    single = Batching(max_batch=1)

    assert single.delay(filled=1, coming=5, oldest=10.0, running=3, now=10.0) == 0
    assert [single.ahead(idle=idle) for idle in (0, 2)] == [1, 3]


@pytest.mark.parametrize(
    ("start", "each", "max_batch", "delay"),
    [
        (0.010, 0.001, 8, LONGEST_DELAY),
        (0.002, 0.001, 8, 0.002),
        (0.0002, 0.001, 4, 0.0002),
        (0.0, 0.010, 1, 0.0),
        (0.0005, 0.010, 1, 0.0005),
        (0.1, 0.0, 8, LONGEST_DELAY),
    ],
    ids=["a GPU", "a light model", "little to gain", "a CPU", "next to nothing to gain", "batches are free"],
)
def test_measured_rules_have_the_smallest_batch_that_gains_most(
    start: float, each: float, max_batch: int, delay: float
) -> None:
    rules = measured_rules({size: start + each * size for size in (1, 2, 4, 8)})

    assert rules == Batching(max_batch, delay)


def test_a_size_that_is_slower_than_smaller_ones_is_not_used() -> None:
    assert measured_rules({1: 0.010, 2: 0.012, 4: 0.030}) == Batching(2, 0.0033)
    assert measured_rules({1: 0.3}) == Batching(1, LONGEST_DELAY)
    assert measured_rules({1: 0.010, 2: 0.001}).max_delay == LONGEST_DELAY  # the first run was disturbed


@dataclass(slots=True)
class Device:
    """Cameras and one accelerator, in virtual time."""

    rules: Batching
    turns: TurnQueue[int] = field(default_factory=TurnQueue)
    now: float = 0.0
    busy: float = 0.0  # seconds of the accelerator
    batches: list[int] = field(default_factory=list)  # their sizes
    ages: dict[int, list[float]] = field(default_factory=dict)  # from capture to prediction, by camera
    _running: bool = False
    _captured: dict[tuple[int, int], float] = field(default_factory=dict)
    _requested: dict[int, int] = field(default_factory=dict)  # the slot that waits for its turn, by camera
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _slots: itertools.count[int] = field(default_factory=itertools.count)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))

    def add_file(self, camera: int) -> None:
        """A camera that always has three frames in flight."""
        for _ in range(3):
            self._fill(camera, next(self._slots))

    def add_live(self, camera: int, interval: float, begin: float = 0.0) -> None:
        """A camera that requests a turn for each frame, and infers the newest one when it comes."""

        def capture() -> None:
            self.at(self.now + interval, capture)
            if camera in self._requested:
                self._captured[camera, self._requested[camera]] = self.now  # the older one is dropped
                return
            slot = self._requested[camera] = next(self._slots)
            self._captured[camera, slot] = self.now
            self.turns.request_turn(camera, 0, slot, self.now)
            self._look()

        self.at(begin, capture)

    def add_dead(self, camera: int) -> None:
        """A camera that never fills its slot."""
        self._captured[camera, -1] = math.nan
        self.turns.request_turn(camera, 0, -1, self.now)

    def play(self, seconds: float) -> None:
        while self._events and self._events[0][0] <= seconds:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self.turns.check()

    def _fill(self, camera: int, slot: int) -> None:
        self._captured.setdefault((camera, slot), self.now)
        self.turns.fill(camera, 0, slot, self.now)
        self._look()

    def _look(self) -> None:
        for camera, slot in self.turns.ask(self.now, self.rules.ahead(idle=0 if self._running else 1)):
            if slot >= 0:
                self._requested.pop(camera, None)
                self.at(self.now + FILLING, lambda camera=camera, slot=slot: self._fill(camera, slot))  # type: ignore[misc]
        delay = self.rules.delay(
            filled=self.turns.filled,
            coming=self.turns.coming(self.now),
            oldest=self.turns.oldest,
            running=int(self._running),
            now=self.now,
        )
        if self._running:
            return  # it is one accelerator, or one thread
        if delay == 0:
            self._begin()
        elif not math.isinf(delay):
            self.at(self.now + delay + 1e-9, self._look)

    def _begin(self) -> None:
        batch = self.turns.take(self.now, self.rules.max_batch)
        seconds = START + EACH * len(batch)
        self._running = True
        self.busy += seconds
        self.batches.append(len(batch))
        self.at(self.now + seconds, lambda: self._end(batch))
        self._look()

    def _end(self, batch: list[tuple[int, int]]) -> None:
        self._running = False
        for camera, slot in batch:
            self.turns.finish(camera, slot)
            self.ages.setdefault(camera, []).append(self.now - self._captured.pop((camera, slot)))
            if camera >= 100:  # files begin at 100
                self._fill(camera, next(self._slots))
        self._look()


def test_eight_busy_cameras_fill_the_accelerator() -> None:
    device = Device(RULES)
    for camera in range(8):
        device.add_file(100 + camera)

    device.play(10.0)

    frames = sum(device.batches)
    assert device.busy / 10.0 >= 0.9
    assert frames / (8 * len(device.batches)) >= 0.9
    one_process_each = 10.0 / (START + EACH)  # they share the accelerator, one frame at a time
    assert frames >= 2 * one_process_each


def test_eight_live_cameras_share_batches_and_none_is_behind() -> None:
    device = Device(RULES)
    for camera in range(8):
        device.add_live(camera, 1 / 30, begin=camera / 240)

    device.play(10.0)

    counts = [len(ages) for ages in device.ages.values()]
    assert len(counts) == 8
    assert max(counts) - min(counts) <= 1
    assert max(max(ages) for ages in device.ages.values()) <= 2 * FULL + MAX_DELAY + FILLING


def test_a_paced_camera_waits_for_one_batch_beside_seven_greedy_ones() -> None:
    device = Device(RULES)
    for camera in range(7):
        device.add_file(100 + camera)
    device.add_live(0, 0.2001)

    device.play(20.0)

    assert len(device.ages[0]) >= 98
    waited = max(device.ages[0]) - FULL  # until its own batch began
    assert waited <= MAX_DELAY + FULL


def test_a_camera_that_never_fills_its_slot_costs_the_others_a_moment_once() -> None:
    device = Device(RULES)
    for number in range(3):
        device.add_dead(50 + number)
    device.add_live(0, 0.1)

    device.play(10.0)

    assert len(device.ages[0]) >= 99
    assert max(device.ages[0][2:]) <= START + EACH + FILLING + 1e-6


def overloaded(max_batch: int, first: Priority = "high", others: Priority = "low") -> Device:
    """Four live cameras of one priority beside twelve of another, which want twice what it can infer."""
    device = Device(Batching(max_batch=max_batch))
    capacity = max_batch / (START + EACH * max_batch)  # frames per second
    interval = 16 / (2 * capacity)
    for camera in range(16):
        device.turns.set_priority(camera, first if camera < 4 else others)
        device.add_live(camera, interval, begin=camera * interval / 16)
    device.play(400 * interval)
    return device


@pytest.mark.parametrize("max_batch", [1, 8])
def test_on_an_overloaded_device_a_high_priority_keeps_its_rate_and_its_age(max_batch: int) -> None:
    device = overloaded(max_batch)

    high = [device.ages[camera] for camera in range(4)]
    low = [device.ages[camera] for camera in range(4, 16)]
    longest = START + EACH * max_batch  # seconds of one batch
    assert min(len(ages) for ages in high) >= 398  # of 400
    # A batch runs, perhaps one of a low priority whose turn is due, and one of each camera.
    assert max(max(ages) for ages in high) <= FILLING + 6 * longest
    assert max(len(ages) for ages in low) - min(len(ages) for ages in low) <= 2


def test_on_an_overloaded_device_equal_priorities_share() -> None:
    device = overloaded(8, "low", "low")

    rates = [len(ages) for ages in device.ages.values()]
    assert 195 <= min(rates) <= max(rates) <= 205  # of 400


@pytest.mark.parametrize("max_batch", [1, 8])
def test_a_low_priority_is_never_starved(max_batch: int) -> None:
    device = Device(Batching(max_batch=max_batch))
    for camera in range(8):
        device.turns.set_priority(100 + camera, "high")
        device.add_file(100 + camera)
    for camera in range(2):
        device.turns.set_priority(camera, "low")
        device.add_live(camera, 0.05, begin=camera * 0.02)

    device.play(20.0)

    low = [len(device.ages[camera]) for camera in range(2)]
    share = sum(low) / sum(device.batches)
    assert 0.08 <= share <= 0.1
    assert max(low) - min(low) <= 1


def test_a_paced_camera_of_high_priority_waits_for_one_batch_and_then_runs() -> None:
    device = Device(RULES)
    for camera in range(7):
        device.add_file(100 + camera)
    device.turns.set_priority(0, "high")
    device.add_live(0, 0.2001)

    device.play(20.0)

    assert max(device.ages[0]) <= FILLING + FULL + FULL
