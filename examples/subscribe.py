"""Print every prediction of the fleet. Requires only pyzmq and msgpack.

python examples/subscribe.py [ENDPOINT]

Without ENDPOINT: the fleet on this machine, with the data directory STREAMFLEET_DATA_DIR. For a fleet on
another machine, create a program with its own key: streamfleet keys subscriber NAME > program.py
"""

import os
import signal
import sys
from pathlib import Path

import msgpack
import zmq

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
folder = Path(os.environ.get("STREAMFLEET_DATA_DIR", "~/.streamfleet")).expanduser()
local = folder / "broker/predictions.ipc"
if len(sys.argv) < 2 and not local.exists():
    sys.exit(f"no fleet runs on this machine: expected {local}")
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1] if len(sys.argv) > 1 else f"ipc://{local}")
socket.subscribe("v1/pred/")  # for one pipeline: "v1/pred/<pipeline id>/"
while True:
    topic, header, body = socket.recv_multipart()
    try:
        message = msgpack.unpackb(body)
        about = message["inference_metadata"]
        names = [prediction["class"] for prediction in message["predictions"]]
        line = f"{about['pipeline_id']} {about['frame_id']} {names}"
    except (LookupError, ValueError, TypeError, RecursionError) as exc:  # devices are not trusted
        print(f"{topic!r}: not a prediction, skipped: {type(exc).__name__}", file=sys.stderr)
        continue
    print(line, flush=True)
