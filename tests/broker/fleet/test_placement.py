"""Which device a pipeline goes to."""

from __future__ import annotations

from streamfleet_broker.fleet.placement import Candidate, choose, meets


def test_most_room_wins() -> None:
    assert choose([Candidate("a", 4, 3), Candidate("b", 4, 1), Candidate("c", 2, 0)]) == "b"


def test_of_equals_the_first_by_name_wins() -> None:
    assert choose([Candidate("b", 4, 2), Candidate("a", 2, 0)]) == "a"


def test_a_full_device_is_never_chosen() -> None:
    assert choose([Candidate("a", 0, 0), Candidate("b", 2, 2), Candidate("c", 1, 5)]) is None


def test_a_selector_asks_for_all_of_its_labels() -> None:
    labels = {"site": "hall-1", "line": "2"}

    assert meets(labels, {})
    assert meets(labels, {"line": "2"})
    assert not meets(labels, {"line": "2", "camera": "3"})
    assert not meets(labels, {"site": "hall-2"})
