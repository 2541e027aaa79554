"""A source that is lost for days is told of, and does not fill the log."""

from __future__ import annotations

from streamfleet_worker.video.telemetry.log_throttle import EVERY, LogThrottle


def test_a_dead_camera_is_told_of_at_once_and_then_every_five_minutes_with_its_attempts() -> None:
    throttle = LogThrottle()

    told = {second: throttle.failed("refused", float(second)) for second in range(0, 3600, 2)}

    lines = {second: count for second, count in told.items() if count}
    assert list(lines) == list(range(0, 3600, int(EVERY)))
    assert list(lines.values()) == [1] + [150] * 11


def test_a_reason_that_is_new_is_told_at_once() -> None:
    throttle = LogThrottle()

    assert [throttle.failed(reason, 0.0) for reason in ("refused", "no login", "no login")] == [1, 1, 0]


def test_two_reasons_that_take_turns_are_told_once_each() -> None:
    throttle = LogThrottle()

    told = [throttle.failed(("refused", "ended")[turn % 2], float(turn)) for turn in range(200)]

    assert told == [1, 1] + [0] * 198


def test_what_comes_again_after_a_long_time_is_new() -> None:
    throttle = LogThrottle()
    for now in (0.0, 1.0):
        throttle.failed("refused", now)

    assert throttle.failed("refused", 2 * EVERY) == 1
