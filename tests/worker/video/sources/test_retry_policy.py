"""How long a source is left alone, by what was wrong with it."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.status import SourceCause
from streamfleet_worker.video.sources.retry_policy import SourceBackoff

QUICK: list[SourceCause] = ["refused", "unreachable", "timeout", "ended"]
SLOW: list[SourceCause] = ["not_found", "codec", "invalid"]


@pytest.mark.parametrize("cause", QUICK)
def test_what_comes_back_by_itself_is_tried_again_within_three_seconds(cause: SourceCause) -> None:
    backoff = SourceBackoff()

    pauses = [backoff.failed(cause, 0.0) * 2 for _ in range(6)]
    spread = backoff.failed(cause, 0.999)

    assert pauses == [0.5, 1, 2, 3, 3, 3]
    assert 2.9 < spread < 3


@pytest.mark.parametrize("cause", SLOW)
def test_what_somebody_must_put_right_is_tried_less_and_less(cause: SourceCause) -> None:
    backoff = SourceBackoff()

    assert [backoff.failed(cause, 0.0) * 2 for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]


def test_a_wrong_login_is_tried_once_in_thirty_seconds_and_no_more() -> None:
    backoff = SourceBackoff()
    backoff.succeeded()

    pauses = [backoff.failed("authentication", chance) for chance in (0.0, 0.5, 0.999)]

    assert pauses[0] == 30
    assert all(30 <= pause < 33 for pause in pauses)


@pytest.mark.parametrize("cause", ["not_found", "codec"])
def test_a_server_that_starts_again_is_not_given_up_because_its_path_is_not_there_yet(
    cause: SourceCause,
) -> None:
    backoff = SourceBackoff()
    backoff.succeeded()

    assert [backoff.failed(cause, 0.0) * 2 for _ in range(5)] == [0.5, 1, 2, 3, 3]


def test_a_picture_begins_the_waiting_anew() -> None:
    backoff = SourceBackoff()
    for _ in range(5):
        backoff.failed("refused", 0.0)

    backoff.succeeded()

    assert backoff.failed("ended", 0.0) * 2 == 0.5
