"""Which frames of a file are shown, and when."""

from __future__ import annotations

import pytest

from streamfleet_worker.library.execution.playback_clock import Schedule


def test_without_a_rate_every_frame_is_shown_at_once() -> None:
    schedule = Schedule()

    verdicts = [
        (schedule.skips(frame / 30, 30.0, 100.0), schedule.wait(frame / 30, 100.0)) for frame in range(90)
    ]

    assert set(verdicts) == {(False, 0.0)}


def test_a_file_at_its_own_pace_shows_each_frame_at_its_time() -> None:
    schedule = Schedule(native=True)

    first = schedule.wait(0.1, now=100.0)
    waits = [schedule.wait(0.1 + late, now=100.0) for late in (0.1, 0.2)]

    assert first == 0
    assert waits == pytest.approx([0.1, 0.2])


def test_at_its_own_pace_a_frame_is_late_when_the_next_one_is_due() -> None:
    schedule = Schedule(native=True)
    schedule.wait(0.1, now=100.0)

    assert not schedule.skips(0.2, 10.0, now=100.19)
    assert schedule.skips(0.2, 10.0, now=100.21)


def test_after_a_pause_the_file_goes_on_where_it_was() -> None:
    schedule = Schedule(native=True)
    schedule.wait(0.1, now=100.0)

    schedule.pause()

    assert schedule.wait(0.2, now=500.0) == 0
    assert schedule.wait(0.3, now=500.0) == pytest.approx(0.1)


def test_a_stride_keeps_its_rate_whatever_the_files_is() -> None:
    schedule = Schedule(max_fps=5.0)

    kept = [frame for frame in range(1, 61) if not schedule.skips(frame / 30, 30.0, now=0.0)]

    assert kept == list(range(1, 61, 6))


def test_a_stride_above_the_files_rate_keeps_every_frame() -> None:
    schedule = Schedule(max_fps=60.0)

    assert not any(schedule.skips(frame / 30, 30.0, now=0.0) for frame in range(1, 61))
