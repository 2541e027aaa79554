"""When a leader renews and stops, and when a candidate takes the lead."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.leadership.candidacy import LEASE, POLL_INTERVAL, Candidacy, Seen
from streamfleet_broker.leadership.lease import RENEW_INTERVAL, RETRY_INTERVAL, STOP_AFTER, Lease


def test_a_lease_holds_from_the_sending_of_its_last_renewal() -> None:
    lease = Lease(100.0)
    lease.renewed(101.5)

    assert lease.holds(101.5 + STOP_AFTER - 0.01)
    assert not lease.holds(101.5 + STOP_AFTER)


def test_a_lease_that_is_over_never_returns() -> None:
    lease = Lease(100.0)
    assert not lease.holds(100.0 + STOP_AFTER)

    lease.renewed(104.5)

    assert not lease.holds(104.6)


def test_a_lease_that_another_broker_took_is_over_at_once() -> None:
    lease = Lease(100.0)

    lease.lose()

    assert not lease.holds(100.1)


def test_a_renewal_that_was_overtaken_does_not_shorten_the_lease() -> None:
    lease = Lease(100.0)
    lease.renewed(103.0)

    lease.renewed(101.5)

    assert lease.ends_at == 103.0 + STOP_AFTER


def test_a_lease_is_renewed_in_time_and_tried_again_sooner() -> None:
    lease = Lease(100.0)
    assert lease.renew_at() == 100.0 + RENEW_INTERVAL

    lease.tried(101.5)
    assert lease.renew_at() == 101.5 + RETRY_INTERVAL
    lease.renewed(101.5)
    assert lease.renew_at() == 101.5 + RENEW_INTERVAL


def test_a_leader_that_has_resigned_is_replaced_at_once() -> None:
    assert Candidacy().see(Seen(3, 70, ""), now=5.0)


def test_a_leader_is_replaced_when_its_beat_stands_still() -> None:
    candidacy = Candidacy()

    assert not candidacy.see(Seen(3, 70, "a"), now=5.0)
    assert not candidacy.see(Seen(3, 71, "a"), now=9.0)
    assert not candidacy.see(Seen(3, 71, "a"), now=9.0 + LEASE - 0.01)
    assert candidacy.see(Seen(3, 71, "a"), now=9.0 + LEASE)


def test_another_leader_has_a_lease_of_its_own() -> None:
    candidacy = Candidacy()
    candidacy.see(Seen(3, 71, "a"), now=5.0)

    assert not candidacy.see(Seen(4, 72, "b"), now=5.0 + LEASE)


@given(
    pauses=st.lists(st.floats(0.1, 6.0), max_size=8),
    delays=st.lists(st.floats(0.0, 2.0), min_size=8, max_size=8),
    phase=st.floats(0.0, POLL_INTERVAL),
)
def test_a_leader_stops_before_another_one_leads(
    pauses: list[float], delays: list[float], phase: float
) -> None:
    """The leader sends renewals after these pauses, and is killed. Each reaches the store with a delay."""
    sent = [0.0, *itertools.accumulate(pauses)]
    stored = [0.0, *(at + delay for at, delay in zip(sent[1:], delays, strict=False))]
    candidacy, now = Candidacy(), phase

    while not candidacy.see(Seen(1, sum(at <= now for at in stored), "a"), now):
        now += POLL_INTERVAL

    lease, last = Lease(0.0), 0.0
    for sent_at, stored_at in zip(sent, stored, strict=True):
        if stored_at <= now:  # later ones are refused, as another broker leads
            lease.renewed(sent_at)
            last = max(last, stored_at)
    assert lease.ends_at < now <= last + LEASE + 2 * POLL_INTERVAL
