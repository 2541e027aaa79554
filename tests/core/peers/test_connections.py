"""The connections of a socket: whose they are, how many there may be, and their end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import zmq
from zmq.utils import z85

from streamfleet_core.peers import connections
from streamfleet_core.peers.allow_list import AllowList
from streamfleet_core.peers.connections import Connections
from tests.fakes.patience import PATIENCE

Sockets = list[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def server(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[zmq.Socket[bytes]]:
    with context.socket(zmq.ROUTER) as made:
        yield made


@pytest.fixture
def clients(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Sockets]:
    """Four that are not connected yet."""
    made = [context.socket(zmq.DEALER) for _ in range(4)]
    yield made
    for each in made:
        each.close(linger=0)


def connect(client: zmq.Socket[bytes], server: zmq.Socket[bytes]) -> None:
    client.connect(server.getsockopt_string(zmq.LAST_ENDPOINT))


def heard(server: zmq.Socket[bytes], known: Connections, key: str) -> connections.Connection | None:
    """The connection of the next message, which belongs to this key."""
    assert server.poll(PATIENCE * 1000)
    frames = server.recv_multipart(copy=False)
    return known.identify(int(frames[-1].get("__fd")), key, 0, 0.0)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "ipc://*"])
def test_one_connection_is_cut_and_the_others_stay(
    clients: Sockets, server: zmq.Socket[bytes], endpoint: str
) -> None:
    known = Connections(server, most=4)
    server.bind(endpoint)
    good, bad, *_ = clients
    ends = {each: each.get_monitor_socket(zmq.EVENT_DISCONNECTED) for each in (good, bad)}
    for each, key in ((good, "good"), (bad, "bad")):
        connect(each, server)
        each.send(b"hello")
        heard(server, known, key)

    (doomed,) = known.of("bad")
    known.cut(doomed)

    assert ends[bad].poll(PATIENCE * 1000)
    assert known.sweep() == [doomed]
    good.send(b"still here")
    assert heard(server, known, "good") in known.of("good")
    assert not ends[good].poll(0)
    assert known.of("bad") == []
    for each, monitor in ends.items():
        each.disable_monitor()
        monitor.close()
    known.close()


def test_one_connection_too_many_of_a_key_is_cut(clients: Sockets, server: zmq.Socket[bytes]) -> None:
    known = Connections(server, most=2)
    server.bind("tcp://127.0.0.1:*")
    outcomes = []
    for each in clients[:3]:
        connect(each, server)
        each.send(b"hello")
        outcomes.append(heard(server, known, "same") is not None)

    assert outcomes == [True, True, False]
    assert len(known.of("same")) == 2
    known.close()


def test_of_too_many_that_say_nothing_the_oldest_are_cut(
    clients: Sockets, server: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_SILENT", 3)
    known = Connections(server, most=9)
    server.bind("tcp://127.0.0.1:*")
    first, *others = clients
    connect(first, server)
    ends = first.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    while not len(known):
        known.take_new(0.0)

    for each in others:
        connect(each, server)

    while not ends.poll(10):
        known.take_new(0.0)
    first.disable_monitor()
    ends.close()
    known.close()


def test_nobody_waits_when_more_come_than_are_taken_note_of(
    clients: Sockets, server: zmq.Socket[bytes]
) -> None:
    known = Connections(server, most=9)
    server.bind("tcp://127.0.0.1:*")
    port = int(server.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    for _ in range(2500):
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    connect(clients[0], server)
    clients[0].send(b"hello")

    assert server.poll(PATIENCE * 1000)
    known.close()


def test_a_message_that_outlived_its_connection_marks_nobody_elses(
    clients: Sockets, server: zmq.Socket[bytes]
) -> None:
    """Its descriptor may be that of the next connection by the time that it is read."""
    known = Connections(server, most=4)
    server.bind("tcp://127.0.0.1:*")
    connect(clients[0], server)
    clients[0].send(b"hello")
    assert server.poll(PATIENCE * 1000)
    descriptor = int(server.recv_multipart(copy=False)[-1].get("__fd"))

    late = known.identify(descriptor, "old", 1, 0.0)
    right = known.identify(descriptor, "new", 2, 0.0)
    later = known.identify(descriptor, "old", 1, 0.0)

    assert late is not None
    assert right is not None
    assert right.key == "new"
    assert later is None
    assert known.sweep() == [late]
    assert known.of("new") == [right]
    assert known.of("old") == []
    known.close()


def test_each_connection_that_is_let_in_has_a_higher_number() -> None:
    allow_list = AllowList()
    key = b"k" * 32
    allow_list.set("relay", frozenset({z85.encode(key).decode()}))
    request = [b"1.0", b"1", b"relay", b"127.0.0.1", b"", b"CURVE", key]

    replies = [allow_list.answer(request) for _ in range(2)]

    assert [reply[-1] for reply in replies] == [b"\x08X-Number\0\0\0\x011", b"\x08X-Number\0\0\0\x012"]
