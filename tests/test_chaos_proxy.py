"""The proxy with which `make chaos` spoils connections does what it says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fakes.chaos_proxy import ChaosProxy, Weather
from tests.fakes.patience import PATIENCE


@contextmanager
def connected() -> Iterator[tuple[ChaosProxy, socket.socket, socket.socket]]:
    """A proxy, and both ends of a connection through it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        ChaosProxy(listener.getsockname()) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), PATIENCE) as client,
    ):
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE)
            yield proxy, client, server


def test_good_weather_forwards_both_ways() -> None:
    with connected() as (_, client, server):
        client.sendall(b"up")
        assert server.recv(10) == b"up"
        server.sendall(b"down")
        assert client.recv(10) == b"down"


def test_one_way_may_be_open_while_the_other_is_not() -> None:
    with connected() as (proxy, client, server):
        proxy.weather = Weather(up=False)
        client.sendall(b"up")
        server.sendall(b"down")

        assert client.recv(10) == b"down"
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.recv(10)


def test_a_reset_ends_both_ends() -> None:
    with connected() as (proxy, client, server):
        client.sendall(b"up")
        assert server.recv(10) == b"up"

        proxy.reset()

        for end in (client, server):
            assert ended(end)


def ended(end: socket.socket) -> bool:
    """Has the other end reset or closed the connection?"""
    try:
        return end.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_frame_is_cut() -> None:
    with connected() as (proxy, client, server):
        proxy.cut_inside_a_frame()
        client.sendall(b"x" * 1000)

        received = b""
        while piece := server.recv(2000):
            received += piece
        assert 0 < len(received) <= 1000
