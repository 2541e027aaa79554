"""The program that `streamfleet keys subscriber` prints: it needs pyzmq and msgpack, and nothing of ours."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from streamfleet.results import SubscriberKeys

_CONNECT_TIMEOUT = 1.0  # seconds for each address

_SCRIPT = '''"""Print every prediction of the fleet, from any host. Needs: pip install pyzmq msgpack"""

import socket
import sys
import time

import msgpack
import zmq

ADDRESSES = {addresses}  # of the fleet; the first that answers is taken


def answering():
    until = time.monotonic() + 2  # a device reopens its port when a key was replaced
    while True:
        for host, port in ADDRESSES:
            try:
                socket.create_connection((host, port), timeout=3).close()
            except OSError:
                continue
            return f"tcp://[{{host}}]:{{port}}" if ":" in host else f"tcp://{{host}}:{{port}}"
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    known = ", ".join(f"{{host}} port {{port}}" for host, port in ADDRESSES)
    sys.exit(f"no answer from {{known}}: does the fleet run, and does it listen on the network (up --host)?")


subscriber = zmq.Context().socket(zmq.SUB)
subscriber.curve_serverkey = {server_key!r}
subscriber.curve_publickey = {public_key!r}
subscriber.curve_secretkey = {secret_key!r}  # of the subscriber {name!r}: keep it private
subscriber.connect(answering())
subscriber.subscribe("v1/pred/")  # one pipeline: "v1/pred/<its id>/"
while True:
    frames = subscriber.recv_multipart()
    try:
        topic, header, body = frames
        line = f"{{topic.decode()}} {{msgpack.unpackb(body)}}"
    except (ValueError, TypeError, RecursionError) as exc:  # a device may send anything under its pipelines
        print(f"{{frames[0]!r}}: not a prediction, skipped: {{type(exc).__name__}}", file=sys.stderr)
        continue
    print(line, flush=True)
'''


def is_answered(endpoint: str) -> bool:
    """Whether this host can connect to an endpoint."""
    address = urlsplit(endpoint)
    try:
        socket.create_connection(
            (address.hostname or "", address.port or 0), timeout=_CONNECT_TIMEOUT
        ).close()
    except OSError:
        return False
    return True


def subscriber_script(keys: SubscriberKeys) -> str:
    """The program for one subscriber."""
    parts = [urlsplit(endpoint) for endpoint in keys.endpoints]
    return _SCRIPT.format(
        name=keys.name,
        addresses=[(part.hostname, part.port) for part in parts],
        server_key=keys.server_key.encode("ascii"),
        public_key=keys.public_key.encode("ascii"),
        secret_key=keys.secret_key.encode("ascii"),
    )
