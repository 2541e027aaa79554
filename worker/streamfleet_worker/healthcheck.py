"""Health check of the worker of a data directory: reads the status that it publishes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import zmq

from streamfleet_core.protocol.data_plane import split
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.status import DeviceStat
from streamfleet_worker.decisions.broker_session import SessionState

TIMEOUT = 3_500  # ms: a status every two seconds in a large fleet, and time to connect


class Unhealthy(Exception):
    """No worker responds, or its session with the broker is not ready. The text says which."""


def check(predictions: str, root: Path) -> DeviceStat:
    """Receive the status of a healthy worker. Raises: Unhealthy."""
    context = zmq.Context()
    try:
        stat = _listen(context, predictions, root)
    finally:
        context.destroy(linger=0)
    if stat.session != SessionState.READY.value:
        raise Unhealthy(f"{stat.device}: expected a session that is ready, got {stat.session}")
    return stat


def _listen(context: zmq.Context[zmq.Socket[bytes]], predictions: str, root: Path) -> DeviceStat:
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    socket.subscribe(b"v1/stat/@")
    socket.connect(predictions)
    if not socket.poll(TIMEOUT):
        raise Unhealthy(f"{root}: no worker has responded for {TIMEOUT / 1000:g} s")
    try:
        _, _, body = split(socket.recv_multipart())
        return msgspec.msgpack.decode(body, type=DeviceStat)
    except (BadData, msgspec.DecodeError) as exc:
        raise Unhealthy(f"{root}: the worker has another version: {exc}") from exc
