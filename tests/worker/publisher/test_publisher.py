"""The publisher's sockets for others on the LAN: who goes ends nobody else."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import zmq

from streamfleet_core.protocol.limits import CURVE_MARGIN
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime import client_socket
from streamfleet_core.runtime.curve import CurveKeys, new_key_pair
from streamfleet_worker.ipc.child_messages import AllowSubscribers, PublisherConfig
from streamfleet_worker.publisher.direct_socket import MAX_MESSAGE
from streamfleet_worker.publisher.publisher import Publisher
from tests.fakes.hanging_up import HastyContext, process, send_much_and_hang_up, stand_still
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port, short_folder


def test_a_subscriber_that_hangs_up_while_much_of_it_waits_does_not_end_the_publisher() -> None:
    own, theirs = new_key_pair(), new_key_pair()
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with (
        short_folder() as folder,
        process(_publisher, str(folder), endpoint, own, theirs.public) as (child, pipe),
        HastyContext() as context,
        context.socket(zmq.XSUB) as peer,
        peer.get_monitor_socket(zmq.EVENT_CONNECTED) as monitor,
    ):
        client_socket.configure(peer, largest=MAX_MESSAGE + CURVE_MARGIN)
        CurveKeys(own.public, theirs).apply(peer)
        peer.sndhwm = 0
        assert pipe.poll(PATIENCE)
        peer.connect(endpoint)
        peer.send(b"\1first")

        code = send_much_and_hang_up(child, peer, monitor)

        assert code == 0


def _publisher(folder: str, endpoint: str, own: KeyPair, allowed: str, pipe: Connection) -> None:
    config = PublisherConfig(
        device="device-1",
        intake_path=f"{folder}/intake",
        picture_intake_path=f"{folder}/picture-intake",
        local_endpoint=f"ipc://{folder}/local",
        local_picture_endpoint=f"ipc://{folder}/local-pictures",
        direct_endpoint=endpoint,
        public_key=own.public,
        secret_key=own.secret,
    )
    with HastyContext(2) as context:
        publisher = Publisher(config, context, time.monotonic())
        publisher.allow(AllowSubscribers((allowed,)))
        publisher.maintain(time.monotonic())
        (direct,) = [each for each in publisher.duties if isinstance(each, zmq.Socket) and each.curve_server]
        pipe.send("bound")
        assert publisher.zap_handler.socket.poll(PATIENCE * 1000)
        publisher.zap_handler.answer()
        assert direct.poll(PATIENCE * 1000)

        def read() -> None:
            while direct.poll(100):
                publisher.duties[direct]()

        stand_still(read)
        publisher.close()
