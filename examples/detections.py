"""Predictions of the fleet as `supervision.Detections`, to filter, count, draw or store with its tools.

python examples/detections.py [ENDPOINT]
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgpack
import supervision as sv
import zmq


def detections(endpoint: str, topic: str = "v1/pred/") -> Iterator[tuple[dict, sv.Detections]]:
    """Each message as it came, and its boxes in pixels of the camera's frame."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(endpoint)
        socket.subscribe(topic)
        while True:
            _topic, _header, body = socket.recv_multipart()
            message = msgpack.unpackb(body)
            yield message, sv.Detections.from_inference(message)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it quietly
    local = f"ipc://{Path.home()}/.streamfleet/broker/predictions.ipc"
    for message, found in detections(sys.argv[1] if len(sys.argv) > 1 else local):
        sure = found[found.confidence > 0.5]
        pipeline = message["inference_metadata"]["pipeline_id"]
        print(
            f"{pipeline}: {len(sure)} of {len(found)} above 0.5, at {sure.xyxy.round().tolist()}", flush=True
        )
