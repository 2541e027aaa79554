"""What clients of the Stream Manager's port do: connect, say four bytes and JSON, read to the end."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.fakes.patience import PATIENCE


def framed(payload: bytes) -> bytes:
    """A payload behind its length."""
    return len(payload).to_bytes(4, "big") + payload


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A connection whose other end must answer."""
    connection = socket.create_connection((host, port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def received(connection: socket.socket) -> Any:
    """The one reply, after which the server closes."""
    came = b""
    while piece := connection.recv(65_536):
        came += piece
    assert int.from_bytes(came[:4], "big") == len(came) - 4, came
    return json.loads(came[4:])


def ask_bytes(port: int, *pieces: bytes) -> Any:
    """The reply to what is said in these pieces."""
    with connect(port) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return received(connection)


def ask(port: int, kind: str, pipeline_id: str | None = None, **content: Any) -> Any:
    """The reply to a command."""
    command = {"type": kind, **({} if pipeline_id is None else {"pipeline_id": pipeline_id}), **content}
    return ask_bytes(port, framed(json.dumps(command).encode()))
