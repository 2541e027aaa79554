"""Who has the next turn: the highest priority that waits, and a lower one at least in every tenth."""

from __future__ import annotations

from collections import Counter

import pytest

from streamfleet_core.protocol.values import PRIORITIES, Priority
from streamfleet_worker.engine.turns.priority_order import TURNS, PriorityOrder


def play(order: PriorityOrder, waiting: tuple[Priority, ...], turns: int) -> list[Priority]:
    """The turns while these always wait."""
    taken = []
    for _ in range(turns):
        taken.append(order.sequence(waiting)[0])
        order.record(taken[-1], waiting)
    return taken


def test_the_highest_priority_that_waits_is_first() -> None:
    order = PriorityOrder()

    assert order.sequence(("low", "high", "normal")) == ["high", "normal", "low"]
    assert order.sequence(("low", "normal")) == ["normal", "low"]
    assert order.sequence(()) == []


@pytest.mark.parametrize("lower", ["normal", "low"])
def test_a_lower_priority_has_every_tenth_turn(lower: Priority) -> None:
    taken = play(PriorityOrder(), ("high", lower), 3 * TURNS)

    assert taken == 3 * [*["high"] * (TURNS - 1), lower]


def test_each_of_three_priorities_has_at_least_a_tenth() -> None:
    order = PriorityOrder()
    play(order, PRIORITIES, 2 * TURNS)

    taken = play(order, PRIORITIES, 100)

    assert Counter(taken) == {"high": 80, "normal": 10, "low": 10}


def test_a_priority_whose_turn_is_due_does_not_lose_it_while_it_cannot_take_it() -> None:
    order = PriorityOrder()
    for _ in range(TURNS + 5):  # a camera of low priority fills its slot slowly
        order.record("high", ("high", "low"))

    assert order.sequence(("high", "low")) == ["low", "high"]
    order.record("low", ("high", "low"))
    assert order.sequence(("high", "low")) == ["high", "low"]


def test_looking_ahead_changes_nothing() -> None:
    order = PriorityOrder()

    play(order.copy(), ("high", "low"), TURNS - 1)

    assert order.sequence(("high", "low")) == ["high", "low"]
