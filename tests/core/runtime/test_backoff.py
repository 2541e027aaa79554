"""The pauses between attempts: they grow, they are spread, they start again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.runtime.backoff import Backoff


def test_pauses_double_up_to_the_limit() -> None:
    backoff = Backoff(first=0.5, limit=3.0, jitter=0.0)

    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_success_resets_them() -> None:
    backoff = Backoff(first=1.0, limit=60.0, factor=1.5, jitter=0.0)
    backoff.failed()
    backoff.failed()

    backoff.succeeded()

    assert (backoff.failed(), backoff.failed()) == (1.0, 1.5)


def test_half_of_a_pause_is_random_by_default() -> None:
    backoff = Backoff(first=1.0, limit=30.0)

    pauses = [backoff.failed(0.0) * 2 for _ in range(7)]
    spread = backoff.failed(0.999)
    backoff.succeeded()

    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert 29 < spread < 30
    assert backoff.failed(0.0) * 2 == 1


@pytest.mark.parametrize(("jitter", "least"), [(0.0, 4.0), (0.5, 2.0), (1.0, 0.0)])
def test_jitter_is_the_part_that_chance_decides(jitter: float, least: float) -> None:
    assert Backoff(first=4.0, limit=4.0, jitter=jitter).failed(0.0) == least
    assert Backoff(first=4.0, limit=4.0, jitter=jitter).failed(1.0) == 4.0


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_pause_never_exceeds_the_limit(failures: int, chance: float) -> None:
    assert 0 <= Backoff(first=0.1, limit=5.0, jitter=1.0, failures=failures).failed(chance) <= 5.0
