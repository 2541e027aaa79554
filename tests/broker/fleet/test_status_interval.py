"""How often devices publish statuses, by the size of the fleet."""

from __future__ import annotations

import pytest

from streamfleet_api.feeds.statuses import STALE
from streamfleet_broker.fleet.device_plane.status_interval import LONGEST, STATUSES, status_interval
from streamfleet_core.protocol.messages import HeartbeatAck
from tests.fakes.scripted_fleet import devices, scripted_fleet, sent


@pytest.mark.parametrize(
    ("subjects", "seconds"), [(0, 1.0), (5, 1.0), (2_500, 1.0), (3_000, 1.2), (5_000, 2.0), (1_000_000, 2.0)]
)
def test_statuses_come_less_often_in_a_large_fleet(subjects: int, seconds: float) -> None:
    assert status_interval(subjects) == seconds


def test_a_rate_is_not_outdated_when_one_status_gets_lost() -> None:
    assert 2 * LONGEST < STALE


def test_each_acknowledgement_tells_the_interval_of_the_present_fleet() -> None:
    _, *others = devices("a", *(f"device-{number}" for number in range(STATUSES - 1)))
    fleet = scripted_fleet("a", records=others)

    before = sent(fleet.heartbeat("a"), "a")
    for number in range(25):
        fleet.create(f"door-{number}")
    after = sent(fleet.heartbeat("a"), "a")

    told = [each.status_ms for each in (*before, *after) if isinstance(each, HeartbeatAck)]
    assert told == [1_000, 1_010]
