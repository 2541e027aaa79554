"""Is the worker of this data directory well? It says so itself once a second, on its own PUB socket."""

from __future__ import annotations

from pathlib import Path

import msgspec
import zmq

from streamfleet_core.protocol.data_plane import split
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.status import DeviceStat
from streamfleet_worker.decisions.broker_session import SessionState

TIMEOUT = 3_500  # ms: a word a second, and a socket that may have to be found first


class Unwell(Exception):
    """No worker is there, or its broker does not know it as ready. Says which."""


def check(predictions: str, root: Path) -> DeviceStat:
    """What it says of itself. Raises: Unwell."""
    context = zmq.Context()
    try:
        stat = _listen(context, predictions, root)
    finally:
        context.destroy(linger=0)
    if stat.session != SessionState.READY.value:
        raise Unwell(f"{stat.device}: its session with the broker is {stat.session}, expected ready")
    return stat


def _listen(context: zmq.Context[zmq.Socket[bytes]], predictions: str, root: Path) -> DeviceStat:
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    socket.subscribe(b"v1/stat/@")
    socket.connect(predictions)
    if not socket.poll(TIMEOUT):
        raise Unwell(f"no worker on {root} has said anything for {TIMEOUT / 1000:g} s")
    try:
        _, _, body = split(socket.recv_multipart())
        return msgspec.msgpack.decode(body, type=DeviceStat)
    except (BadData, msgspec.DecodeError) as exc:
        raise Unwell(f"the worker on {root} is of another version: {exc}") from exc
