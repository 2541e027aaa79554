"""Print every prediction of the fleet. Needs pyzmq and msgpack, and nothing of Streamfleet.

python examples/subscribe.py [ENDPOINT]
"""

import signal
import sys
from pathlib import Path

import msgpack
import zmq

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it quietly
local = f"ipc://{Path.home()}/.streamfleet/broker/predictions.ipc"
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1] if len(sys.argv) > 1 else local)
socket.subscribe("v1/pred/")  # one pipeline: "v1/pred/<its id>/"
while True:
    topic, header, body = socket.recv_multipart()
    message = msgpack.unpackb(body)
    about = message["inference_metadata"]
    names = [prediction["class"] for prediction in message["predictions"]]
    print(about["pipeline_id"], about["frame_id"], names, flush=True)
