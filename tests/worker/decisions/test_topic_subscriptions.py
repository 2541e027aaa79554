"""Whose pictures somebody looks at, by the subscriptions of a socket."""

from __future__ import annotations

import pytest

from streamfleet_worker.decisions.topic_subscriptions import MAX_SUBSCRIPTIONS, TopicSubscriptions, is_watched


def heard(*messages: bytes) -> set[str]:
    subscriptions = TopicSubscriptions()
    for message in messages:
        assert not subscriptions.update(message)
    return set(subscriptions.watched)


@pytest.mark.parametrize(
    ("topic", "watched"),
    [
        (b"v1/img/door/", {"door/"}),
        (b"v1/img/do", {"do"}),
        (b"v1/img/", {""}),
        (b"v1/", {""}),
        (b"", {""}),
        (b"v1/pred/door/", set()),
        (b"v1/img/\xff", set()),
        (b"v1/img/" + b"x" * 66, set()),
    ],
)
def test_a_subscription_is_the_beginning_of_a_topic(topic: bytes, watched: set[str]) -> None:
    assert heard(b"\x01" + topic) == watched


def test_a_subscription_that_ends_leaves_the_others() -> None:
    messages = [b"\x01v1/img/door/", b"\x01v1/img/gate/", b"\x01", b"\x01v1/", b"\x00v1/img/door/", b"\x00"]

    assert heard(*messages) == {"gate/", ""}


def test_what_is_no_subscription_has_no_effect() -> None:
    assert heard(b"", b"\x02v1/img/door/", b"\x00v1/img/door/") == set()


def test_nobody_fills_the_memory_with_subscriptions() -> None:
    subscriptions = TopicSubscriptions()

    first_refused = [
        subscriptions.update(b"\x01v1/img/%d/" % number) for number in range(MAX_SUBSCRIPTIONS + 9)
    ]
    full = set(subscriptions.watched)
    subscriptions.update(b"\x00v1/img/0/")
    subscriptions.update(b"\x01v1/img/door/")

    assert [number for number, first in enumerate(first_refused) if first] == [MAX_SUBSCRIPTIONS]
    assert full == {f"{number}/" for number in range(MAX_SUBSCRIPTIONS)}
    assert "door/" in subscriptions.watched
    assert len(subscriptions.watched) == MAX_SUBSCRIPTIONS


@pytest.mark.parametrize(
    ("watched", "expected"),
    [((), False), (("door/",), True), (("doo",), True), (("",), True), (("door-2/", "gate/"), False)],
)
def test_a_pipeline_is_watched_when_its_name_begins_so(watched: tuple[str, ...], expected: bool) -> None:
    assert is_watched("door", watched) is expected
