"""CURVE clients and servers, and ZAP between them."""

from __future__ import annotations

import threading

import zmq

from streamfleet_core.peers.allow_list import AllowList
from streamfleet_core.runtime.curve import CurveKeys, new_key_pair, public_of, serve, zap_socket
from tests.fakes.patience import PATIENCE


def answer_two(handler: zmq.Socket[bytes], allow_list: AllowList) -> None:
    """Decide about two connections."""
    for _ in range(2):
        if not handler.poll(PATIENCE * 1000):
            return
        routing_id, delimiter, *request = handler.recv_multipart()
        handler.send_multipart([routing_id, delimiter, *allow_list.answer(request)])


def test_a_server_lets_in_the_keys_of_its_domain_and_no_others() -> None:
    server, known, stranger = new_key_pair(), new_key_pair(), new_key_pair()
    allow_list = AllowList()
    allow_list.set("doors", frozenset({known.public}))
    with zmq.Context() as context, zap_socket(context) as handler, context.socket(zmq.PULL) as pull:
        pull.linger = 0
        serve(pull, server.secret, "doors")
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        with context.socket(zmq.PUSH) as first, context.socket(zmq.PUSH) as second:
            answering = threading.Thread(target=answer_two, args=(handler, allow_list))
            answering.start()
            refused = second.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            for socket, own in ((first, known), (second, stranger)):
                socket.linger = 0
                CurveKeys(server.public, own).apply(socket)
                socket.connect(f"tcp://127.0.0.1:{port}")

            first.send(b"known")

            assert pull.poll(PATIENCE * 1000)
            assert pull.recv() == b"known"
            assert refused.poll(PATIENCE * 1000), "the stranger is not refused"
            second.disable_monitor()
            refused.close()
            answering.join()


def test_a_key_pair_shows_its_public_half_alone() -> None:
    pair = new_key_pair()

    assert public_of(pair.secret) == pair.public
    assert pair.public in repr(CurveKeys(pair.public, pair))
    assert pair.secret not in repr(CurveKeys(pair.public, pair))
