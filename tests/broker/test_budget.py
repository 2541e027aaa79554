"""Token buckets: what is admitted over any time, and what is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.budget import ADVANCE, Budgets, Limits, Reserve, data_limits
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


def paid(budgets: Budgets, reserve: Reserve, size: int, now: float) -> bool:
    """A message that a relay pays for as it does, when it can."""
    if (reserve.messages < 1 or reserve.bytes < size) and not budgets.refill("a", reserve, size, now):
        return False
    reserve.messages -= 1
    reserve.bytes -= size
    assert reserve.messages >= 0
    assert reserve.bytes >= 0
    return True


def test_a_reserve_holds_an_advance_and_no_more() -> None:
    budgets, reserve = Budgets(data_limits(6000, 60_000)), Reserve()

    assert paid(budgets, reserve, 100, now=0)

    assert (reserve.messages, reserve.bytes) == (6000 * ADVANCE - 1, 60_000 * ADVANCE - 100)


def test_a_message_larger_than_the_advance_is_paid_whole() -> None:
    budgets, reserve = Budgets(data_limits(10, 1000)), Reserve()

    assert [paid(budgets, reserve, 900, now=0) for _ in range(3)] == [True, True, False]
    assert [paid(budgets, reserve, 900, now=0.8) for _ in range(2)] == [True, False]


def test_a_message_for_which_bytes_are_lacking_costs_nothing() -> None:
    budgets, reserve = Budgets(data_limits(1, 1000)), Reserve()

    assert not budgets.refill("a", reserve, 2001, now=0)

    assert reserve == Reserve()
    assert [paid(budgets, reserve, 1, now=0) for _ in range(3)] == [True, True, False]


def test_a_device_within_its_budget_loses_nothing_when_the_relay_stood_still() -> None:
    budgets, reserve = Budgets(data_limits(6000, 6_000_000)), Reserve()
    steady = [paid(budgets, reserve, 1000, now=number / 6000) for number in range(30_000)]

    at_once = [paid(budgets, reserve, 1000, now=7.0) for _ in range(12_000)]

    assert all(steady)
    assert all(at_once)


@given(
    st.lists(
        st.tuples(st.floats(0, 0.5), st.integers(0, 300), st.integers(1, 80), st.integers(0, 1)), max_size=60
    )
)
def test_two_relays_together_get_no_more_than_burst_and_rate(
    asked: list[tuple[float, int, int, int]],
) -> None:
    budgets, reserves, now = Budgets(data_limits(20, 2000)), (Reserve(), Reserve()), 0.0
    messages, size = 0, 0

    for pause, each, count, relay in asked:
        now += pause
        for _ in range(count):
            if paid(budgets, reserves[relay], each, now):
                messages += 1
                size += each

        assert messages <= 20 * (2 + now) + 1e-6
        assert size <= 2000 * (2 + now) + 1e-3
