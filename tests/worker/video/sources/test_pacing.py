"""A frame goes when it is due."""

from __future__ import annotations

import pytest

from streamfleet_worker.video.sources.pacing import HoldIntervals, Pace


@pytest.mark.parametrize(("source_fps", "max_fps"), [(30, 20), (30, 7), (25, 25), (10, 30), (100, 0.5)])
def test_a_pace_is_kept_on_average(source_fps: float, max_fps: float) -> None:
    pace, went = Pace(max_fps), 0

    for index in range(round(source_fps * 20)):
        now = 1000 + index / source_fps
        if pace.wait(now) == 0:
            pace.went(now)
            went += 1

    assert went == pytest.approx(20 * min(source_fps, max_fps), abs=2)


def test_without_a_limit_every_frame_may_go() -> None:
    pace = Pace(None)
    pace.went(5.0)

    assert pace.wait(5.0) == 0


def test_a_pause_does_not_save_up_a_burst() -> None:
    pace = Pace(10)
    pace.went(100.0)

    went = 0
    while pace.wait(200.0) == 0:
        pace.went(200.0)
        went += 1

    assert went <= 2
    assert 0 < pace.wait(200.0) <= 0.1


@pytest.mark.parametrize(("before", "after", "wait"), [(0.1, 10, 0.1), (10, 0.1, 0.0), (0.1, None, 0.0)])
def test_another_limit_holds_at_once(before: float, after: float | None, wait: float) -> None:
    pace = Pace(before)
    pace.went(95.0)
    pace.went(100.0)

    pace.limit(after)

    assert pace.wait(100.0) == pytest.approx(wait)


def test_a_frame_that_goes_under_a_slower_limit_makes_the_next_one_wait_for_it() -> None:
    pace = Pace(None)
    pace.went(100.0)
    pace.limit(0.5)

    waits = [pace.wait(100.0)]
    pace.went(100.0)
    waits.append(pace.wait(100.0))

    assert waits == [0.0, pytest.approx(2.0)]


# what a file was made to wait


@pytest.mark.parametrize(
    ("start", "end", "waited"),
    [(0, 10, 0), (0, 30, 10), (15, 18, 3), (15, 45, 10), (20, 40, 5), (0, 100, 15), (45, 100, 0)],
)
def test_only_the_waiting_within_a_stretch_counts(start: float, end: float, waited: float) -> None:
    holds = HoldIntervals()
    holds.add(10, 20)
    holds.add(35, 40)

    assert holds.within(start, end) == waited


def test_a_pause_and_a_pace_that_overlap_count_once() -> None:
    holds = HoldIntervals()
    holds.add(10, 20)
    holds.add(15, 30)
    holds.add(12, 14)

    assert holds.within(0, 100) == 20
