"""How far the network is behind, with real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import zmq

from streamfleet_core.peers.connections import descriptor_of
from streamfleet_worker.publisher.replay.pacing import Network
from streamfleet_worker.publisher.send_queues import SendQueues
from tests.fakes.patience import PATIENCE


@contextmanager
def unread() -> Iterator[socket.socket]:
    """A connection whose peer has not read all that was sent."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        closing(socket.create_connection(server.getsockname())) as ours,
    ):
        peer, _ = server.accept()
        ours.setblocking(False)
        with closing(peer):
            with contextlib.suppress(BlockingIOError):
                while True:
                    ours.send(bytes(65536))
            yield ours


def test_what_a_peer_does_not_read_is_unsent() -> None:
    queues = SendQueues()
    with unread() as ours:
        queues.note(ours.fileno())
        queues.note(-1)

        assert queues.look().unsent > 0

    assert queues.look() == Network(), "the connection has ended"


def test_a_connection_that_has_the_descriptor_of_an_earlier_one_is_not_taken_for_it() -> None:
    queues = SendQueues()
    with unread() as other, closing(socket.socket()) as earlier:
        queues.note(earlier.fileno())
        os.dup2(other.fileno(), earlier.fileno())

        assert queues.look() == Network()


def test_a_subscription_names_the_connection_that_it_arrived_on() -> None:
    queues = SendQueues()
    with zmq.Context() as context, context.socket(zmq.XPUB) as ours, context.socket(zmq.XSUB) as relay:
        ours.linger = relay.linger = 0
        port = relay.bind_to_random_port("tcp://127.0.0.1")
        ours.connect(f"tcp://127.0.0.1:{port}")
        relay.send(b"\1v1/")
        until = time.monotonic() + PATIENCE
        while not ours.poll(10):  # the other one connects only while it is used
            assert time.monotonic() < until
            relay.poll(0)
        message: zmq.Frame = ours.recv(copy=False)

        descriptor = descriptor_of(message)
        queues.note(descriptor)

        assert descriptor >= 0
        assert queues.look().unsent == 0
