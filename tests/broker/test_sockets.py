"""What the options of our sockets keep from happening in libzmq: a peer that goes ends nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest
import zmq

from streamfleet_broker import sockets
from streamfleet_broker.sockets import (
    CONTROL_OPTIONS,
    DATA_OPTIONS,
    PICTURE_OPTIONS,
    PUBLICATION_OPTIONS,
    SUBSCRIPTION_OPTIONS,
)
from streamfleet_core.protocol.limits import MAX_DATA_FRAME
from streamfleet_core.runtime import client_socket
from tests.fakes.hanging_up import HastyContext, process, send_much_and_hang_up, stand_still
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

_DOORS = {
    "devices": (zmq.ROUTER, zmq.DEALER, CONTROL_OPTIONS),
    "publishers": (zmq.XSUB, zmq.XPUB, DATA_OPTIONS | PUBLICATION_OPTIONS),
    "subscribers": (zmq.XPUB, zmq.XSUB, DATA_OPTIONS | SUBSCRIPTION_OPTIONS),
    "viewers": (zmq.XPUB, zmq.XSUB, PICTURE_OPTIONS | SUBSCRIPTION_OPTIONS),
}


@pytest.fixture(params=["tcp", "ipc"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    with short_folder() as folder:
        yield "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{folder}/x.ipc"


@pytest.mark.parametrize("door", _DOORS)
def test_a_peer_that_hangs_up_while_much_of_it_waits_does_not_end_the_broker(
    endpoint: str, door: str
) -> None:
    with (
        process(_broker, door, endpoint) as (child, pipe),
        HastyContext() as context,
        context.socket(_DOORS[door][1]) as peer,
        peer.get_monitor_socket(zmq.EVENT_CONNECTED) as monitor,
    ):
        client_socket.configure(peer, largest=MAX_DATA_FRAME)
        peer.sndhwm = 0
        assert pipe.poll(PATIENCE)
        peer.connect(pipe.recv())
        if door == "publishers":
            assert peer.poll(PATIENCE * 1000), "the broker subscribes"
        peer.send(b"\1first")

        code = send_much_and_hang_up(child, peer, monitor)

        assert code == 0


def test_a_broker_that_goes_while_much_waits_for_a_slow_client_does_not_end_the_client(endpoint: str) -> None:
    with (
        HastyContext() as context,
        context.socket(zmq.XPUB) as socket,
        socket.get_monitor_socket(zmq.EVENT_ACCEPTED) as monitor,
    ):
        sockets.configure(socket, DATA_OPTIONS | {zmq.SNDHWM: 0})
        with process(_client, sockets.bind(socket, endpoint, "")) as (child, _):
            assert socket.poll(PATIENCE * 1000), "the client subscribes"
            socket.send(b"first")

            code = send_much_and_hang_up(child, socket, monitor)

            assert code == 0


def _broker(door: str, endpoint: str, pipe: Connection) -> None:
    kind, _, options = _DOORS[door]
    with HastyContext() as context, context.socket(kind) as socket:
        sockets.configure(socket, options)
        pipe.send(sockets.bind(socket, endpoint, ""))
        if kind == zmq.XSUB:
            socket.send(b"\1")
        _read_late(socket)


def _client(endpoint: str, _: Connection) -> None:
    with HastyContext() as context, context.socket(zmq.SUB) as socket:
        client_socket.configure(socket, largest=MAX_DATA_FRAME)
        socket.rcvhwm = 100
        socket.subscribe(b"")
        socket.connect(endpoint)
        _read_late(socket)


def _read_late(socket: zmq.Socket[bytes]) -> None:
    socket.recv()

    def read() -> None:
        while socket.poll(100):
            socket.recv()

    stand_still(read)
