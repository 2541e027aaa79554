"""One datagram a frame, whatever the network says."""

from __future__ import annotations

import socket

from streamfleet_broker.protocol.values import UdpSink
from streamfleet_worker.camera.udp import UdpDoor


def test_datagrams_arrive_whole_up_to_the_largest() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        door = UdpDoor(UdpSink("localhost", receiver.getsockname()[1]), now=0.0)
        door.await_address()

        sent = [door.send(bytes([n]) * size, now=0.0) for n, size in enumerate((1, 1400, 65_507))]
        came = [len(receiver.recv(65_536)) for _ in sent]

    door.close()
    assert sent == [True] * 3
    assert came == [1, 1400, 65_507]


def test_a_host_without_an_address_costs_datagrams_and_is_looked_up_again() -> None:
    door = UdpDoor(UdpSink("no-such-host.invalid", 9), now=0.0)
    door.await_address()

    sent = [door.send(b"x", now=float(now)) for now in range(3)]
    door.sink = UdpSink("127.0.0.1", 9)  # the name has an address from now on
    again = door.send(b"x", now=10.0)
    door.await_address()
    after = door.send(b"x", now=10.1)

    door.close()
    assert (sent, again, after) == ([False] * 3, False, True)
    assert door.dropped == 4
    assert door.error == ""


def test_a_datagram_that_is_too_large_is_counted_and_the_next_one_goes() -> None:
    door = UdpDoor(UdpSink("127.0.0.1", 9), now=0.0)
    door.await_address()

    refused = door.send(bytes(70_000), now=0.0)
    error = door.error
    accepted = door.send(b"x", now=0.0)

    door.close()
    assert (refused, accepted) == (False, True)
    assert error == "Message too long"
    assert door.dropped == 1


def test_a_broadcast_arrives() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 0))
        receiver.settimeout(5)
        door = UdpDoor(UdpSink("127.255.255.255", receiver.getsockname()[1]), now=0.0)
        door.await_address()

        sent = door.send(b"to all", now=0.0)
        came = receiver.recv(16)

    door.close()
    assert (sent, came) == (True, b"to all")


def test_where_nobody_listens_nothing_is_told_as_udp_cannot_know() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        sink = UdpSink("127.0.0.1", nobody.getsockname()[1])
    door = UdpDoor(sink, now=0.0)
    door.await_address()

    sent = [door.send(b"x", now=0.0) for _ in range(20)]

    door.close()
    assert sent == [True] * 20
    assert (door.dropped, door.error) == (0, "")
