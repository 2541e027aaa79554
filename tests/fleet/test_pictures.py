"""Pictures: from a camera, through the relay, to who looks, and only while somebody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import zmq

from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic
from tests.fakes.patience import PATIENCE
from tests.fleet.harness import Fleet, Subscriber, UdpReceiver, wait_for


@contextmanager
def looking(endpoint: str, pipeline_id: str, **curve: str) -> Iterator[zmq.Socket[bytes]]:
    """Somebody who looks at the pictures of a pipeline."""
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.linger = 0
        for option, key in curve.items():
            setattr(sub, f"curve_{option}", key.encode())
        sub.connect(endpoint)
        sub.subscribe(pipeline_topic(Kind.IMG, pipeline_id))
        yield sub


def test_a_picture_belongs_to_a_prediction_and_comes_to_this_host_and_elsewhere(
    clean: Fleet, subscribe: Callable[..., Subscriber], udp: UdpReceiver
) -> None:
    door = clean.initialise("TestPatternStreamProducer", "shapes/1", udp.port)
    predictions = subscribe()
    keys = clean.http.post("/v2/subscribers", json={"name": "wall"}).json()
    curve = {
        "serverkey": keys["server_key"],
        "publickey": keys["public_key"],
        "secretkey": keys["secret_key"],
    }
    elsewhere = f"tcp://127.0.0.1:{clean.broker_ports[-1]}"

    for endpoint, options in ((f"ipc://{clean.data}/broker/pictures.ipc", {}), (elsewhere, curve)):
        with looking(endpoint, door, **options) as sub:
            assert sub.poll(1000 * PATIENCE), endpoint
            topic, header, body = sub.recv_multipart()

        known = DataHeader.unpack(header)
        picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert topic == b"v1/img/%s/" % door.encode()
        assert (known.kind, known.source) == (Kind.IMG, 0)
        assert picture is not None
        assert 0 < picture.shape[1] <= 640
        key = known.key
        wait_for(lambda key=key: key in predictions.keys(door), f"the prediction {key}")  # type: ignore[misc]
