"""Sources have equally many turns, and the one with the newest frame is next."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from dataclasses import dataclass, field

import pytest

from streamfleet_worker.engine.turns.fair_turns import ALWAYS_NEW, FairTurns


def taken(turns: FairTurns[str], count: int, now: float = 0.0) -> str:
    """Give so many turns; each source waits on with the same frame."""
    names = ""
    for _ in range(count):
        name = turns.order(now)[0]
        newest = turns._decoded_at[name]
        turns.take(name)
        turns.add(name, newest)
        names += name
    return names


def waiting(**decoded_at: float) -> FairTurns[str]:
    turns: FairTurns[str] = FairTurns()
    for name, at in decoded_at.items():
        turns.add(name, at)
    return turns


def test_each_has_one_turn_in_a_round_and_the_newest_is_first() -> None:
    assert taken(waiting(a=1, b=3, c=2), 9) == "bcabcabca"


def test_a_newer_frame_moves_a_source_ahead() -> None:
    turns = waiting(a=1, b=3, c=2)

    turns.refresh("a", 4)
    turns.refresh("b", 0)  # an older one does not count

    assert turns.order(4.0) == ["a", "b", "c"]


def test_a_frame_that_cannot_be_replaced_is_first_and_still_has_one_turn_in_a_round() -> None:
    assert taken(waiting(a=1.9, f=ALWAYS_NEW, b=2), 6, now=2.0) == "fbafba"


def test_a_source_that_waits_again_during_a_round_has_its_turn_in_the_next() -> None:
    turns = waiting(a=1, b=1.2)
    turns.take("b")

    turns.add("b", 1.4)

    assert turns.order(1.5) == ["a", "b"]


def test_an_old_frame_lets_newer_ones_of_the_next_rounds_go_first_but_not_for_ever() -> None:
    turns = waiting(a=1, b=3)

    order = ""
    for at in range(3, 7):
        order += turns.order(at)[0]
        turns.take(order[-1])
        turns.add(order[-1], at)

    assert order == "bbba"


def test_a_new_source_has_no_arrears() -> None:
    turns = waiting(a=1, b=2)
    taken(turns, 100)

    turns.add("c", 9)

    assert taken(turns, 3) == "cba"


def test_a_source_that_declined_its_turn_keeps_it() -> None:
    turns = waiting(a=1, b=2)
    turns.remove("b")

    turns.add("b", 3)

    assert taken(turns, 2) == "ba"


def test_what_waits_no_longer_is_forgotten_with_its_round() -> None:
    turns: FairTurns[int] = FairTurns()
    turns.add(-1, 0)
    for number in range(1000):
        turns.add(number, number)
        turns.take(number)
    turns.take(-1)
    turns.add(-1, 0)

    assert not turns._next


def test_a_source_whose_turn_others_take_gives_no_arrears_to_a_new_one() -> None:
    turns = waiting(dead=ALWAYS_NEW, a=1, b=2)
    for _ in range(100):  # others are taken, as the dead one has nothing to run
        source = next(source for source in turns.order(2.0) if source != "dead")
        turns.take(source)
        turns.add(source, 2)

    turns.add("c", 3)

    order = []
    for _ in range(9):
        source = next(source for source in turns.order(3.0) if source != "dead")
        turns.take(source)
        turns.add(source, 3)
        order.append(source)
    assert 3 <= order.count("c") <= 6


def test_a_source_that_is_gone_is_forgotten() -> None:
    turns = waiting(a=1, b=2, c=3)
    turns.take("c")

    turns.forget(lambda source: source in "bc")

    assert (turns.order(3.0), turns._next) == (["a"], {})


@dataclass(slots=True)
class Play:
    """The result of cameras that share inference threads."""

    ages: list[float] = field(default_factory=list)  # seconds
    turns: Counter[int] = field(default_factory=Counter)


def play(cameras: int, period: float, inference: float, *, seed: int, in_turn: bool = False) -> Play:
    """Two threads, and one frame that is chosen ahead, for a minute in virtual time."""
    chance, turns, result = random.Random(seed), FairTurns[int](), Play()
    phases = [chance.uniform(0, period) for _ in range(cameras)]
    frames = sorted(
        (phase + number * period, camera)
        for camera, phase in enumerate(phases)
        for number in range(int(60 / period))
    )
    newest: dict[int, float] = {}
    free, chosen = [0.0, 0.0], list[tuple[int, float]]()
    while frames:
        now = min(free)
        while frames and frames[0][0] <= now:
            at, camera = frames.pop(0)
            newest[camera] = at
            (turns.refresh if camera in turns else turns.add)(camera, at)
        while len(chosen) < 2 and len(turns):
            camera = next(iter(turns._rounds if in_turn else turns.order(now)))
            turns.take(camera)
            chosen.append((camera, newest[camera]))
        if not chosen:
            free.remove(now)
            free.append(frames[0][0] if frames else now)
            continue
        camera, at = chosen.pop(0)
        free.remove(now)
        free.append(now + inference * chance.uniform(0.9, 1.1))
        if now > 20:
            result.ages.append(free[-1] - at)
            result.turns[camera] += 1
    return result


@pytest.mark.parametrize("seed", range(3))
def test_slow_cameras_of_a_busy_engine_have_young_predictions_and_equal_rates(seed: int) -> None:
    fair, in_turn = (play(64, 2.0, 0.13, seed=seed, in_turn=each) for each in (False, True))

    assert statistics.median(fair.ages) < 0.3 < 1 < statistics.median(in_turn.ages)
    assert (
        statistics.quantiles(fair.ages, n=100)[-1] < 1.1 < 2 < statistics.quantiles(in_turn.ages, n=100)[-1]
    )
    assert max(fair.turns.values()) - min(fair.turns.values()) <= 3


@pytest.mark.parametrize("cameras", [2, 4, 6, 16])
def test_fast_cameras_of_a_busy_engine_have_equal_rates(cameras: int) -> None:
    fair = play(cameras, 0.1, 0.13, seed=0)

    assert max(fair.turns.values()) - min(fair.turns.values()) <= 3
    assert statistics.quantiles(fair.ages, n=100)[-1] < 0.45
