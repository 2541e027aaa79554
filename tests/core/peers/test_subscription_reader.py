"""Subscriptions as they are read: which of them are none, and on whom an answer would act."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from streamfleet_core.peers.subscription_reader import Subscription, SubscriptionReader
from tests.fakes.patience import PATIENCE


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


@pytest.fixture
def publisher(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[zmq.Socket[bytes]]:
    with context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        socket.linger = 0
        socket.bind("tcp://127.0.0.1:*")
        yield socket


@pytest.fixture
def peers(
    context: zmq.Context[zmq.Socket[bytes]], publisher: zmq.Socket[bytes]
) -> Iterator[list[zmq.Socket[bytes]]]:
    made = [context.socket(zmq.XSUB) for _ in range(2)]
    for socket in made:
        socket.linger = 0
        socket.connect(publisher.getsockopt_string(zmq.LAST_ENDPOINT))
    yield made
    for socket in made:
        socket.close()


def read(reader: SubscriptionReader, publisher: zmq.Socket[bytes]) -> Subscription:
    assert publisher.poll(PATIENCE * 1000)
    subscription = reader.read()
    assert subscription is not None
    return subscription


def test_topics_are_read_with_who_wants_them(
    publisher: zmq.Socket[bytes], peers: list[zmq.Socket[bytes]]
) -> None:
    reader = SubscriptionReader(publisher, has_keys=False)

    peers[0].send(b"\1a")
    begins = read(reader, publisher)
    peers[0].send(b"\0a")
    ends = read(reader, publisher)

    assert begins.descriptor == ends.descriptor >= 0
    assert (begins.topic, begins.begins, ends.topic, ends.begins) == (b"a", True, b"a", False)
    assert begins.is_safe
    assert ends.is_safe
    assert reader.read() is None


@pytest.mark.parametrize("content", [b"\2a", b"", b"v1/pred/"])
def test_what_is_no_subscription_says_so_and_what_follows_is_not_safe_until_nothing_waits(
    publisher: zmq.Socket[bytes], peers: list[zmq.Socket[bytes]], content: bytes
) -> None:
    reader = SubscriptionReader(publisher, has_keys=False)
    peers[0].send(content)
    peers[0].send(b"\1a")
    assert publisher.poll(PATIENCE * 1000)

    foreign, following = read(reader, publisher), read(reader, publisher)
    assert reader.read() is None
    peers[1].send(b"\1b")
    later = read(reader, publisher)

    assert foreign.is_foreign
    assert not foreign.is_safe
    assert not following.is_foreign
    assert not following.is_safe
    assert later.is_safe


@pytest.mark.parametrize("more", [b"\1a", b"x"])
def test_each_frame_of_a_message_is_looked_at(
    publisher: zmq.Socket[bytes], peers: list[zmq.Socket[bytes]], more: bytes
) -> None:
    reader = SubscriptionReader(publisher, has_keys=False)

    peers[0].send_multipart([b"\1a", more])
    first, second = read(reader, publisher), read(reader, publisher)

    assert first.is_safe
    assert second.is_safe == (more[0] == 1)
    assert second.is_foreign == (more[0] != 1)
