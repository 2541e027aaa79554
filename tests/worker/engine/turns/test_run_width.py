"""An inference uses all threads where that makes it faster and delays nobody."""

from __future__ import annotations

import itertools

import pytest

from streamfleet_worker.engine.turns.run_width import RunWidth

NARROW, WIDE = 0.18, 0.13  # seconds


def play(
    width: RunWidth,
    rate: float,
    *,
    seconds: float = 10.0,
    begin: float = 0.0,
    narrow: float = NARROW,
    wide: float = WIDE,
    alone: bool = True,
    lone: bool = False,
) -> list[bool]:
    """Inferences at even intervals; the choice for each."""
    chosen = []
    for number in range(int(seconds * rate)):
        uses_all = width.starts(begin + number / rate, alone=alone, lone=lone)
        if width.needs_session:
            width.session_is_available()
        width.ended(wide if uses_all else narrow, wide=uses_all)
        chosen.append(uses_all)
    return chosen


@pytest.mark.parametrize(("rate", "expected"), [(0.5, True), (2, True), (5, True), (10, False)])
def test_the_load_decides(rate: float, expected: bool) -> None:
    chosen = play(RunWidth(2), rate, seconds=40)

    assert set(chosen[len(chosen) // 2 :]) == {expected}


@pytest.mark.parametrize(("rate", "expected"), [(6.5, True), (7.2, False), (10, False)])
def test_a_lone_camera_may_use_most_of_the_time(rate: float, expected: bool) -> None:
    chosen = play(RunWidth(2), rate, seconds=25, lone=True)

    assert set(chosen[len(chosen) // 2 :]) == {expected}


def test_all_threads_that_are_not_fast_enough_are_tried_now_and_then() -> None:
    chosen = play(RunWidth(2), 8, seconds=300, lone=True, wide=0.15)

    assert 5 <= sum(chosen) <= 0.03 * len(chosen)


def test_a_lone_camera_whose_inferences_on_one_thread_overlap_gets_all_threads() -> None:
    chosen = play(RunWidth(2), 6.5, seconds=40, lone=True, alone=False)

    assert all(chosen[len(chosen) // 2 :])


def test_an_inference_beside_another_is_no_measure_of_all_threads() -> None:
    width = RunWidth(2)
    play(width, 2, lone=True, seconds=1, wide=0.9)

    for at in range(1, 20):
        assert width.starts(at, alone=False, lone=True)
        width.ended(0.9, wide=True)
        assert width.starts(at + 0.3, alone=True, lone=True)
        assert not width.starts(at + 0.4, alone=False, lone=True)
        width.ended(0.3, wide=False)
        width.ended(0.9, wide=True)

    assert width._wide_runs < 5


def test_only_one_inference_at_a_time_uses_all_threads() -> None:
    width = RunWidth(2)
    play(width, 2, lone=True)

    both = [width.starts(at, alone=False, lone=True) for at in (10.0, 10.1)]
    width.ended(WIDE, wide=True)

    assert (both, width.starts(10.2, alone=False, lone=True)) == ([True, False], True)


def test_an_inference_beside_others_uses_one_thread() -> None:
    assert not any(play(RunWidth(2), 3, alone=False))


def test_an_engine_of_one_thread_has_no_choice() -> None:
    assert not any(play(RunWidth(1), 1))


def test_a_short_inference_is_not_worth_a_session() -> None:
    width = RunWidth(2)

    assert not any(play(width, 5, narrow=0.02, wide=0.012))
    assert not width.needs_session


def test_a_model_that_gains_nothing_goes_back_to_one_thread() -> None:
    chosen = play(RunWidth(2), 2, seconds=25, wide=0.175)

    assert any(chosen)
    assert not any(chosen[-20:])


def test_a_measurement_that_was_disturbed_is_repeated() -> None:
    width = RunWidth(2)
    disturbed = play(width, 2, seconds=20, wide=0.3)

    after = play(width, 2, begin=20.0, seconds=80)

    assert not disturbed[-1]
    assert after[-1]


def test_the_choice_does_not_alternate_at_the_limit() -> None:
    chosen = play(RunWidth(2), 5.9, seconds=60)

    changes = sum(before != after for before, after in itertools.pairwise(chosen))
    assert changes <= 2


def test_it_follows_the_load() -> None:
    width = RunWidth(2)

    quiet = play(width, 3)
    busy = play(width, 11, begin=10.0)
    after = play(width, 3, begin=20.0)

    assert (quiet[-1], busy[-1], after[-1]) == (True, False, True)
