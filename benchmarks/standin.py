"""A stand-in for Roboflow's Stream Manager: the same server structure, without its work.

It has one thread that serves one request at a time in the order of accepting, a listen backlog of five
connections, and the table of pipelines in memory, so that a list costs nothing. Roboflow's manager itself
cannot be run here. The stand-in starts no processes and waits for none, so it should be faster than
Roboflow's. If it were slower, the comparison would favour us.
"""

from __future__ import annotations

import json
import socket
import socketserver
import uuid
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.processes import start_session

CLIENT_TIMEOUT = 5.0  # seconds that one silent client blocks all others
_HEADER = 4
_READ = 16_384

_PIPELINES: dict[str, Any] = {}


class _Server(socketserver.TCPServer):
    request_queue_size = 5
    allow_reuse_address = True  # unlike Roboflow's, where a benchmark would wait a minute for the port

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(CLIENT_TIMEOUT)
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
            chunk = self.request.recv(_READ)
            if not chunk:
                raise ValueError(f"expected {size} bytes, got {len(payload)}")
            payload += chunk
        return payload


def serve(connection: Connection, pipelines: list[str]) -> None:
    """Send the port, and serve until killed."""
    start_session()
    _PIPELINES.update(dict.fromkeys(pipelines))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        connection.send(server.server_address[1])
        server.serve_forever()
