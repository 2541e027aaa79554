"""Which device a pipeline goes to."""

from __future__ import annotations

from streamfleet_broker.placement import Candidate, choose


def test_most_room_wins() -> None:
    assert choose([Candidate("a", 4, 3), Candidate("b", 4, 1), Candidate("c", 2, 0)]) == "b"


def test_of_equals_the_first_by_name_wins() -> None:
    assert choose([Candidate("b", 4, 2), Candidate("a", 2, 0)]) == "a"


def test_a_full_device_is_never_chosen() -> None:
    assert choose([Candidate("a", 0, 0), Candidate("b", 2, 2), Candidate("c", 1, 5)]) is None
