"""Print the positions of detected objects, over a WebSocket. Requires only websockets.

python examples/websocket.py [CLASS]

For a fleet on another machine, set STREAMFLEET_URL to its API and STREAMFLEET_TOKEN to its operator's token.
"""

import json
import os
import signal
import sys
from urllib.parse import urlencode

from websockets.sync.client import connect

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
chosen = {"min_confidence": 0.5} | ({"class": sys.argv[1]} if len(sys.argv) > 1 else {})
address = os.environ.get("STREAMFLEET_URL", "http://127.0.0.1:8080").replace("http", "ws", 1)
token = os.environ.get("STREAMFLEET_TOKEN")
headers = {"Authorization": f"Bearer {token}"} if token else {}
try:
    socket = connect(f"{address}/v2/predictions?{urlencode(chosen)}", additional_headers=headers, proxy=None)
except OSError as exc:
    sys.exit(f"cannot reach {address}: {exc}")
with socket:
    for text in socket:
        message = json.loads(text)
        if message["type"] == "gap":  # this program was too slow
            print(message["data"]["gap"], "predictions were lost", flush=True)
            continue
        about = message["data"]["inference_metadata"]
        for one in message["data"]["predictions"]:
            try:
                line = f"{about['pipeline_id']} {one['class']} {round(one['x'])} {round(one['y'])}"
            except LookupError as exc:  # devices are not trusted
                print(f"not a prediction, skipped: {exc!r}", file=sys.stderr)
                continue
            print(line, flush=True)
