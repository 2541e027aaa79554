"""Print where things are seen, over a WebSocket. Needs websockets, and nothing of Streamfleet.

python examples/websocket.py [CLASS] [ADDRESS]
"""

import json
import signal
import sys
from urllib.parse import urlencode

from websockets.sync.client import connect

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it quietly
chosen = {"min_confidence": 0.5} | ({"class": sys.argv[1]} if len(sys.argv) > 1 else {})
address = sys.argv[2] if len(sys.argv) > 2 else "ws://127.0.0.1:8080"
with connect(f"{address}/v2/predictions?{urlencode(chosen)}", proxy=None) as socket:
    for text in socket:
        message = json.loads(text)
        if message["type"] == "gap":  # we were too slow
            print(message["data"]["gap"], "predictions are missing here", flush=True)
            continue
        about = message["data"]["inference_metadata"]
        for one in message["data"]["predictions"]:
            print(about["pipeline_id"], one["class"], round(one["x"]), round(one["y"]), flush=True)
