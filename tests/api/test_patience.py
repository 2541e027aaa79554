"""Whoever is silent for long enough hangs, and nobody is blamed for another, or for our own sleep."""

from __future__ import annotations

from collections.abc import Mapping

from streamfleet_api.patience import Look, Patience

OLD = {"api": -100.0, "broker": -100.0, "local-1": -100.0}


def look(
    at: float, *, api: bool = True, broker: bool = True, silent: Mapping[str, float | None] | None = None
) -> Look:
    """What one look shows of a fleet in which all is well but what is said."""
    return Look(at, api=api, broker=api and broker, silent=silent or {})


def hung(looks: list[Look], started: Mapping[str, float] = OLD) -> list[list[str]]:
    """What follows from each look."""
    patience = Patience()
    return [patience.see(each, started) for each in looks]


def test_an_api_that_is_silent_for_eight_seconds_hangs() -> None:
    assert hung([look(at, api=False) for at in (0, 3, 6, 9)]) == [[], [], [], ["api"]]


def test_a_broker_that_is_silent_for_eight_seconds_hangs() -> None:
    assert hung([look(at, broker=False) for at in (0, 3, 6, 9)]) == [[], [], [], ["broker"]]


def test_a_worker_that_is_not_heard_for_ten_seconds_hangs() -> None:
    looks = [look(at, silent={"local-1": 8.5 + at}) for at in (0, 1, 2, 3, 4)]

    assert hung(looks) == [[], [], [], [], ["local-1"]]


def test_a_worker_that_a_new_broker_has_never_heard_has_time_to_find_it() -> None:
    looks = [look(at, silent={"local-1": None}) for at in range(25)]

    assert hung(looks) == [[]] * 20 + [["local-1"]] * 5


def test_one_answer_clears_the_suspicion() -> None:
    looks = [look(0, api=False), look(3, api=False), look(6), look(9, api=False), look(12, api=False)]

    assert hung(looks) == [[]] * 5


def test_nobody_is_blamed_for_our_own_sleep() -> None:
    before = [look(at, api=False, silent={}) for at in (0, 3)]
    after = [look(at, api=False) for at in (1000, 1001)]
    silent = [look(2000, silent={"local-1": 1000.0}), look(2001, silent={"local-1": 0.5})]

    assert hung([*before, *after, *silent]) == [[]] * 6


def test_a_silent_api_hides_the_broker_and_a_silent_broker_hides_the_workers() -> None:
    behind_api = [look(at, api=at > 6, broker=False) for at in (0, 3, 6, 9, 12, 15)]
    behind_broker = [look(at, broker=at > 6, silent={"local-1": 11.0 + at}) for at in (0, 3, 6, 7, 8)]

    assert hung(behind_api) == [[]] * 6
    assert hung(behind_broker) == [[]] * 5


def test_a_child_may_load_for_twenty_seconds() -> None:
    looks = [look(at, api=False) for at in range(0, 31, 3)]

    assert hung(looks, {"api": 0.0}) == [[]] * 10 + [["api"]]


def test_a_child_that_was_heard_loads_no_more() -> None:
    looks = [look(1), *(look(at, api=False) for at in (2, 5, 8, 11))]

    assert hung(looks, {"api": 0.0}) == [[], [], [], [], ["api"]]


def test_a_child_is_not_heard_in_the_voice_of_its_predecessor() -> None:
    looks = [look(at, silent={"local-1": 5.0 + at}) for at in range(1, 20)]

    assert hung(looks, {"local-1": 0.0}) == [[]] * 19


def test_only_children_of_ours_that_live_are_judged() -> None:
    looks = [look(at, silent={"edge-1": 60.0, "local-1": 60.0}) for at in (0, 1, 2)]

    assert hung(looks, {"api": -100.0, "broker": -100.0}) == [[]] * 3
