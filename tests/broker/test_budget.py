"""Token buckets: what is admitted over any time, and what is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.budget import Budgets, Limits
from streamfleet_core.protocol.rates import Bucket, Rate

LIMITS = Limits(messages=Rate(2, 4), bytes=Rate(100, 1000), sessions=Rate(0.1, 2))


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(Rate(2, 4))

    assert [bucket.take(1, now=10) for _ in range(5)] == [True] * 4 + [False]
    assert [bucket.take(1, now=11) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1, now=100) for _ in range(5)] == [True] * 4 + [False]


def test_who_asks_for_too_much_loses_nothing() -> None:
    bucket = Bucket(Rate(1, 4))

    assert not bucket.take(5, now=0)
    assert bucket.take(4, now=0)


def test_what_goes_in_any_case_leaves_no_debt() -> None:
    bucket = Bucket(Rate(1, 4))

    bucket.charge(3, now=0)
    bucket.charge(3, now=0)

    assert not bucket.has(1, now=0)
    assert bucket.has(1, now=1)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 6)), max_size=60))
def test_never_more_than_burst_and_rate_together(asked: list[tuple[float, float]]) -> None:
    bucket, now, taken = Bucket(Rate(2, 4)), 0.0, 0.0

    for pause, amount in asked:
        now += pause
        if bucket.take(amount, now):
            taken += amount

        assert taken <= 4 + 2 * now + 1e-6
        assert 0 <= bucket.left <= 4


def test_each_of_the_three_budgets_holds_alone() -> None:
    budgets = Budgets(LIMITS)

    assert [budgets.admits("a", 1, now=0) for _ in range(5)] == [True] * 4 + [False]
    assert [budgets.admits("b", 600, now=0) for _ in range(2)] == [True, False]
    assert [budgets.admits_session("c", now=0) for _ in range(3)] == [True, True, False]


def test_one_key_takes_nothing_of_another() -> None:
    budgets = Budgets(LIMITS)
    while budgets.admits("flood", 1, now=0) or budgets.admits_session("flood", now=0):
        pass

    assert budgets.admits("true", 1, now=0)
    assert budgets.admits_session("true", now=0)


def test_who_begins_too_often_may_still_speak_in_the_session_that_it_has() -> None:
    budgets = Budgets(LIMITS)
    while budgets.admits_session("a", now=0):
        pass

    assert budgets.admits("a", 1, now=0)


def test_keys_that_fell_silent_are_forgotten() -> None:
    budgets = Budgets(LIMITS)
    budgets.admits("old", 1, now=0)
    budgets.admits("new", 1, now=50)

    budgets.forget(until=10)

    assert len(budgets) == 1
