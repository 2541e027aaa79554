"""Health check: queries the broker of this data directory as an operator does."""

from __future__ import annotations

import uuid

import zmq

from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.errors import BadConfig, NoAnswer
from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.requests import FleetView, GetFleet, pack_request
from streamfleet_core.protocol.values import from_plain

TIMEOUT = 3_000  # ms


def check(config: BrokerConfig) -> str:
    """Query the broker, and say what it answers. One that stands by is healthy.

    Raises: NoAnswer, BadConfig.
    """
    if config.operators_port is not None:
        raise BadConfig("--check", "asks through operators.ipc, and --operators-port puts TCP in its place")
    endpoint = f"ipc://{config.operators_path}"
    context = zmq.Context()
    try:
        return _ask(context, endpoint)
    except (zmq.ZMQError, ProtocolError, ValueError) as exc:
        raise NoAnswer(endpoint, str(exc)) from exc
    finally:
        context.destroy(linger=0)


def _ask(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> str:
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(endpoint)
    socket.send_multipart(encode(Envelope(pack_request(GetFleet()), request_id=uuid.uuid4().bytes)))
    if not socket.poll(TIMEOUT):
        raise NoAnswer(endpoint, f"no reply within {TIMEOUT / 1000:g} s")
    reply = decode(socket.recv_multipart()).message
    if isinstance(reply, Error) and reply.code == "not_leader":
        return reply.message
    if not isinstance(reply, Reply):
        raise NoAnswer(endpoint, f"expected a Reply, got {type(reply).__name__}")
    return f"{from_plain(reply.data, FleetView).devices_ready} devices are ready"
