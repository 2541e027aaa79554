"""Whoever is silent for long enough hangs, and nobody is blamed for another, or for our own sleep."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from streamfleet_api.local.hang_detector import API, BROKER, HangDetector, Observation, ProcessId

WORKER = ProcessId("worker", "local-1")
OLD = {API: -100.0, BROKER: -100.0, WORKER: -100.0}


def observation(
    at: float, *, api: bool = True, broker: bool = True, silent: Mapping[str, float | None] | None = None
) -> Observation:
    """What one look shows of a fleet in which all is well but what is said."""
    return Observation(at, api=api, broker=api and broker, silent=silent or {})


def hung(observations: list[Observation], started: Mapping[ProcessId, float] = OLD) -> list[list[ProcessId]]:
    """What follows from each look."""
    detector = HangDetector()
    return [detector.observe(each, started) for each in observations]


def test_an_api_that_is_silent_for_eight_seconds_hangs() -> None:
    assert hung([observation(at, api=False) for at in (0, 3, 6, 9)]) == [[], [], [], [API]]


def test_a_broker_that_is_silent_for_eight_seconds_hangs() -> None:
    assert hung([observation(at, broker=False) for at in (0, 3, 6, 9)]) == [[], [], [], [BROKER]]


def test_a_worker_that_is_not_heard_for_ten_seconds_hangs() -> None:
    observations = [observation(at, silent={"local-1": 8.5 + at}) for at in (0, 1, 2, 3, 4)]

    assert hung(observations) == [[], [], [], [], [WORKER]]


def test_a_worker_that_a_new_broker_has_never_heard_has_time_to_find_it() -> None:
    observations = [observation(at, silent={"local-1": None}) for at in range(25)]

    assert hung(observations) == [[]] * 20 + [[WORKER]] * 5


def test_one_answer_clears_the_suspicion() -> None:
    observations = [
        observation(0, api=False),
        observation(3, api=False),
        observation(6),
        observation(9, api=False),
        observation(12, api=False),
    ]

    assert hung(observations) == [[]] * 5


def test_nobody_is_blamed_for_our_own_sleep() -> None:
    before = [observation(at, api=False, silent={}) for at in (0, 3)]
    after = [observation(at, api=False) for at in (1000, 1001)]
    silent = [observation(2000, silent={"local-1": 1000.0}), observation(2001, silent={"local-1": 0.5})]

    assert hung([*before, *after, *silent]) == [[]] * 6


def test_a_silent_api_hides_the_broker_and_a_silent_broker_hides_the_workers() -> None:
    behind_api = [observation(at, api=at > 6, broker=False) for at in (0, 3, 6, 9, 12, 15)]
    behind_broker = [observation(at, broker=at > 6, silent={"local-1": 11.0 + at}) for at in (0, 3, 6, 7, 8)]

    assert hung(behind_api) == [[]] * 6
    assert hung(behind_broker) == [[]] * 5


def test_a_child_may_load_for_twenty_seconds() -> None:
    observations = [observation(at, api=False) for at in range(0, 31, 3)]

    assert hung(observations, {API: 0.0}) == [[]] * 10 + [[API]]


def test_a_child_that_was_heard_loads_no_more() -> None:
    observations = [observation(1), *(observation(at, api=False) for at in (2, 5, 8, 11))]

    assert hung(observations, {API: 0.0}) == [[], [], [], [], [API]]


def test_a_child_is_not_heard_in_the_voice_of_its_predecessor() -> None:
    observations = [observation(at, silent={"local-1": 5.0 + at}) for at in range(1, 20)]

    assert hung(observations, {WORKER: 0.0}) == [[]] * 19


def test_only_children_of_ours_that_live_are_judged() -> None:
    observations = [observation(at, silent={"edge-1": 60.0, "local-1": 60.0}) for at in (0, 1, 2)]

    assert hung(observations, {API: -100.0, BROKER: -100.0}) == [[]] * 3


@pytest.mark.parametrize("name", ["api", "broker", "worker", "local-1"])
def test_no_process_is_judged_by_a_device_that_has_its_name(name: str) -> None:
    processes = {API: -100.0, BROKER: -100.0}
    observations = [observation(at, silent={name: 60.0 + at}) for at in range(20)]

    assert hung(observations, processes) == [[]] * 20


def test_a_device_that_has_the_name_of_a_process_does_not_speak_for_it() -> None:
    observations = [observation(at, api=False, silent={"api": 0.0}) for at in range(0, 31, 3)]

    assert hung(observations, {API: 0.0}) == [[]] * 10 + [[API]]
