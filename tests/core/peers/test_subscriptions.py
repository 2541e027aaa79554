"""What peers are subscribed to, and what of it the devices are told."""

from __future__ import annotations

from streamfleet_core.peers.subscriptions import Change, Subscriptions


def test_the_first_who_hears_a_topic_is_told_upstream_and_the_last_who_does_no_more() -> None:
    known = Subscriptions()

    assert known.subscribe(1, b"a", (b"a",)) == Change(granted=(b"a",), first=(b"a",))
    assert known.subscribe(2, b"a", (b"a",)) == Change(granted=(b"a",))
    assert known.unsubscribe(1, b"a") == Change(revoked=(b"a",))
    assert known.has_receiver(b"a")
    assert known.leave(2) == Change(last=(b"a",))
    assert not known
    assert not known.has_receiver(b"a")


def test_asking_twice_is_asking_once() -> None:
    known = Subscriptions()
    known.subscribe(1, b"a", (b"a",))

    assert known.subscribe(1, b"a", (b"a",)) == Change()
    assert known.unsubscribe(1, b"a") == Change(revoked=(b"a",), last=(b"a",))
    assert known.unsubscribe(1, b"a") == Change()
    assert known.leave(1) == Change()


def test_a_topic_that_two_askings_grant_lasts_until_neither_does() -> None:
    known = Subscriptions()
    known.subscribe(1, b"v1/", (b"v1/a", b"v1/b"))

    assert known.subscribe(1, b"v1/a", (b"v1/a",)) == Change()
    assert known.unsubscribe(1, b"v1/") == Change(revoked=(b"v1/b",), last=(b"v1/b",))
    assert known.unsubscribe(1, b"v1/a") == Change(revoked=(b"v1/a",), last=(b"v1/a",))


def test_who_asks_and_is_granted_nothing_hears_nothing() -> None:
    known = Subscriptions()

    assert known.subscribe(1, b"v1/", ()) == Change()
    assert not known
    assert known.asked(1) == {b"v1/": ()}


def test_whoever_is_unknown_can_leave() -> None:
    known = Subscriptions()

    assert known.leave(7) == known.unsubscribe(7, b"a") == Change()
    assert known.asked(7) == {}
