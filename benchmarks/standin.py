"""A stand-in for the original's Stream Manager, shaped as it is: what it would do at best, without any work.

One thread and one request at a time, in the order of accepting; a socket server that waits in the kernel for
at most five connections; the table of pipelines in its own memory, so that a list costs nothing. The original
itself cannot be run here. Where this one is slower than that, the comparison flatters us; where it is faster,
it does not: it makes no processes, and asks nobody.
"""

from __future__ import annotations

import json
import socket
import socketserver
import uuid
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.processes import stand_alone

SILENCE = 5.0  # seconds that one client may keep all others waiting
_HEADER = 4
_READ = 16_384

_PIPELINES: dict[str, Any] = {}


class _Server(socketserver.TCPServer):
    request_queue_size = 5
    allow_reuse_address = True  # unlike the original, which a benchmark would have to wait a minute for

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(SILENCE)
        return connection, address


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            command = json.loads(self._payload())
        except (OSError, ValueError):
            response: dict[str, Any] = {"status": "failure", "error_type": "internal_error"}
        else:
            response = {"status": "success"}
            if command["type"] == "list_pipelines":
                response["pipelines"] = list(_PIPELINES)
        reply = {"request_id": str(uuid.uuid4()), "response": response, "pipeline_id": None}
        payload = json.dumps(reply).encode()
        self.request.sendall(len(payload).to_bytes(_HEADER, "big") + payload)

    def _payload(self) -> bytes:
        header = self.request.recv(_HEADER)
        size = int.from_bytes(header, "big")
        payload = b""
        while len(payload) < size:
            piece = self.request.recv(_READ)
            if not piece:
                raise ValueError("it ended before its end")
            payload += piece
        return payload


def serve(connection: Connection, pipelines: list[str]) -> None:
    """Tell the port, and serve until killed."""
    stand_alone()
    _PIPELINES.update(dict.fromkeys(pipelines))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        connection.send(server.server_address[1])
        server.serve_forever()
