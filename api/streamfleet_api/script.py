"""The program that `streamfleet keys subscriber` prints: it needs pyzmq and msgpack, and nothing of ours."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

_SCRIPT = '''"""Print every prediction of the fleet, from any host. Needs: pip install pyzmq msgpack"""

import msgpack
import zmq

socket = zmq.Context().socket(zmq.SUB)
socket.curve_serverkey = {server_key!r}
socket.curve_publickey = {public_key!r}
socket.curve_secretkey = {secret_key!r}  # of the subscriber {name!r}: keep it private
socket.connect({endpoint!r})
socket.subscribe("v1/pred/")  # one pipeline: "v1/pred/<its id>/"
while True:
    topic, header, body = socket.recv_multipart()
    print(topic.decode(), msgpack.unpackb(body), flush=True)
'''


def reached(endpoint: str, url: str) -> str:
    """An endpoint as it is reached from elsewhere: `*` in it is the host of the api's URL."""
    host = urlsplit(url).hostname or "127.0.0.1"
    return endpoint.replace("*", f"[{host}]" if ":" in host else host)


def subscriber_script(subscription: dict[str, Any], url: str) -> str:
    """The program for one subscription."""
    return _SCRIPT.format(
        name=subscription["name"],
        endpoint=reached(subscription["endpoint"], url),
        **{name: subscription[name].encode("ascii") for name in ("server_key", "public_key", "secret_key")},
    )
