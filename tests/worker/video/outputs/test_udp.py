"""One datagram a frame, whatever the network says."""

from __future__ import annotations

import socket
import threading

import pytest

from streamfleet_core.protocol.hosts import place_of
from streamfleet_core.protocol.values import UdpSink
from streamfleet_worker.video.outputs.udp import Target, UdpSender, resolve
from tests.fakes.patience import PATIENCE


def test_datagrams_arrive_whole_up_to_the_largest() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(PATIENCE)
        sender = UdpSender(UdpSink("localhost", receiver.getsockname()[1]), now=0.0)
        sender.await_address()

        sent = [sender.send(bytes([n]) * size, now=0.0) for n, size in enumerate((1, 1400, 65_507))]
        came = [len(receiver.recv(65_536)) for _ in sent]

    sender.close()
    assert sent == [True] * 3
    assert came == [1, 1400, 65_507]


def test_a_host_without_an_address_costs_datagrams_and_is_looked_up_again() -> None:
    sender = UdpSender(UdpSink("no-such-host.invalid", 9), now=0.0)
    sender.await_address()

    sent = [sender.send(b"x", now=float(now)) for now in range(3)]
    sender.sink = UdpSink("127.0.0.1", 9)  # the name has an address from now on
    again = sender.send(b"x", now=10.0)
    sender.await_address()
    after = sender.send(b"x", now=10.1)

    sender.close()
    assert (sent, again, after) == ([False] * 3, False, True)
    assert sender.dropped == 4
    assert sender.error == ""


def test_a_datagram_that_is_too_large_is_counted_and_the_next_one_goes() -> None:
    sender = UdpSender(UdpSink("127.0.0.1", 9), now=0.0)
    sender.await_address()

    refused = sender.send(bytes(70_000), now=0.0)
    error = sender.error
    accepted = sender.send(b"x", now=0.0)

    sender.close()
    assert (refused, accepted) == (False, True)
    assert error == "Message too long"
    assert sender.dropped == 1


def test_a_broadcast_arrives() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 0))
        receiver.settimeout(PATIENCE)
        sender = UdpSender(UdpSink("127.255.255.255", receiver.getsockname()[1]), now=0.0)
        sender.await_address()

        sent = sender.send(b"to all", now=0.0)
        came = receiver.recv(16)

    sender.close()
    assert (sent, came) == (True, b"to all")


def test_where_nobody_listens_nothing_is_told_as_udp_cannot_know() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        sink = UdpSink("127.0.0.1", nobody.getsockname()[1])
    sender = UdpSender(sink, now=0.0)
    sender.await_address()

    sent = [sender.send(b"x", now=0.0) for _ in range(20)]

    sender.close()
    assert sent == [True] * 20
    assert (sender.dropped, sender.error) == (0, "")


def has_ipv6() -> bool:
    """Containers may be without it."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "localhost6", "fe80::1%lo"])
def test_a_receiver_may_have_an_address_of_ipv6(host: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("::1", 0))
        receiver.settimeout(PATIENCE)
        port = receiver.getsockname()[1]
        sender = UdpSender(UdpSink(host, port), now=0.0, resolver=on_loopback)
        sender.await_address()

        sent = sender.send(b"x", now=0.0)
        came = receiver.recv(16)

    sender.close()
    assert (sent, came, sender.name) == (True, b"x", f"udp://{place_of(host, port)}")


def on_loopback(host: str, port: int) -> list[Target]:
    """As the system says it, but for names that only some systems have."""
    return resolve("::1", port) if host == "localhost6" else scoped(resolve(host, port))


def scoped(found: list[Target]) -> list[Target]:
    """A link-local address keeps its interface; here it is that of the loopback, where `::1` is."""
    assert all(target.address[3] == socket.if_nametoindex("lo") for target in found if target.address[3])
    return [Target(target.family, ("::1", *target.address[1:3], 0)) for target in found]


def test_a_name_of_two_families_is_one_of_ipv4_as_the_originals_receivers_are() -> None:
    assert resolve("localhost", 9)[0] == Target(socket.AF_INET, ("127.0.0.1", 9))


def test_a_name_that_moves_is_followed_without_an_error_before_it() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new,
    ):
        places = []
        for receiver in (old, new):
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(PATIENCE)
            places.append(Target(socket.AF_INET, receiver.getsockname()))
        answers = [[places[0]], places[::-1], [places[1]]]
        sender = UdpSender(UdpSink("receiver.example", 9), now=0.0, resolver=lambda _h, _p: answers.pop(0))
        sender.await_address()

        sender.send(b"1", now=4.9)
        sender.send(b"2", now=5.0)  # both addresses are its own now: the one that works is kept
        sender.await_address()
        sender.send(b"3", now=10.0)
        sender.await_address()
        sender.send(b"4", now=10.1)
        came = [*(old.recv(16) for _ in range(3)), new.recv(16)]

    sender.close()
    assert came == [b"1", b"2", b"3", b"4"]


def test_a_resolver_that_hangs_holds_up_no_frame_and_is_asked_once() -> None:
    asked, answer = [], threading.Event()

    def resolver(_host: str, port: int) -> list[Target]:
        asked.append(port)
        if len(asked) > 1:
            answer.wait(PATIENCE)
        return [Target(socket.AF_INET, ("127.0.0.1", port))]

    sender = UdpSender(UdpSink("slow.example", 9), now=0.0, resolver=resolver)
    sender.await_address()

    sent = [sender.send(b"x", now=float(now)) for now in range(100)]

    answer.set()
    sender.await_address()
    sender.close()
    assert (sent, len(asked)) == ([True] * 100, 2)


def test_an_address_is_not_looked_up_again() -> None:
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[Target]:
        asked.append(host)
        return resolve(host, port)

    sender = UdpSender(UdpSink("127.0.0.1", 9), now=0.0, resolver=resolver)
    sender.await_address()

    sent = [sender.send(b"x", now=float(now)) for now in range(100)]

    sender.close()
    assert (sent, asked) == ([True] * 100, ["127.0.0.1"])
