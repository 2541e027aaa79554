"""Clients with low overhead: one process each, with blocking sockets and prepared requests.

Each client sends a request, reads the whole response, and repeats. It only searches the response for bytes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.processes import child, receive

MAX_COUNT = 200_000  # requests of one client
TIMEOUT = 6.0  # seconds for one response
_TIMEVAL = struct.pack("@qq", int(TIMEOUT), 0)  # TIMEOUT as a timeval
_CHUNK = 4096  # bytes per read
_START_DELAY = 0.2  # seconds until all clients start at the same time


@dataclass(frozen=True, slots=True)
class Question:
    """The requests of one client, sent in turn over new connections, and the expected bytes."""

    port: int
    requests: tuple[bytes, ...]
    expected: bytes
    keep: bool = False  # one connection for all requests; responses are HTTP with Content-Length
    times: int = MAX_COUNT  # requests, unless the time is over before


@dataclass(frozen=True, slots=True)
class Load:
    """The result of all clients."""

    seconds: float
    latencies: list[float]  # seconds, of successful requests
    failures: int

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return len(self.latencies) / self.seconds


def load(questions: Sequence[Question], *, seconds: float) -> Load:
    """Run one client per question in parallel for `seconds`. Each sends its next request after a response."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(child(_call)) for _ in questions]
        for connection in connections:
            receive(connection)
        begin = time.monotonic() + _START_DELAY
        for connection, question in zip(connections, questions, strict=True):
            connection.send((question, begin, begin + seconds))
        done = [receive(connection, seconds + 3 * TIMEOUT) for connection in connections]
    latencies = [latency for found, _, _ in done for latency in found]
    return Load(max(end for _, _, end in done) - begin, latencies, sum(failures for _, failures, _ in done))


def http_get(path: str, *, keep: bool = False) -> bytes:
    """Return a GET request."""
    return _http("GET", path, keep)


def http_post(path: str, *, keep: bool = False) -> bytes:
    """Return a POST request without a body."""
    return _http("POST", path, keep)


def framed(payload: bytes) -> bytes:
    """Frame a command of the Stream Manager's protocol."""
    return len(payload).to_bytes(4, "big") + payload


def _http(method: str, path: str, keep: bool) -> bytes:
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    ending = "" if keep else "Connection: close\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}{ending}\r\n".encode()


# in the process of one client -----------------------------------------------------------------------------


def _call(connection: Connection) -> None:
    connection.send("ready")
    question, begin, until = connection.recv()
    time.sleep(max(0.0, begin - time.monotonic()))
    connection.send(
        _on_one_connection(question, until) if question.keep else _on_new_connections(question, until)
    )


def _on_new_connections(question: Question, until: float) -> tuple[list[float], int, float]:
    """Send a multiple of the requests, so that each paused pipeline is resumed."""
    latencies, failures = [], 0
    address, requests, count = ("127.0.0.1", question.port), question.requests, len(question.requests)
    for number in range(question.times):
        started = time.monotonic()
        if started > until and number % count == 0:
            break
        try:
            with socket.socket() as peer:
                # `settimeout` would make Python poll before each call.
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL)
                peer.connect(address)
                peer.sendall(requests[number % count])
                answer = peer.recv(_CHUNK)
                while piece := peer.recv(_CHUNK):
                    answer += piece
        except OSError:
            answer = b""
        if question.expected in answer:
            latencies.append(time.monotonic() - started)
        else:
            failures += 1
    return latencies, failures, time.monotonic()


def _on_one_connection(question: Question, until: float) -> tuple[list[float], int, float]:
    latencies, failures = [], 0
    with socket.create_connection(("127.0.0.1", question.port), timeout=TIMEOUT) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count = len(question.requests)
        for number in range(question.times):
            started = time.monotonic()
            if started > until and number % count == 0:
                break
            peer.sendall(question.requests[number % count])
            if question.expected in _answer(peer):
                latencies.append(time.monotonic() - started)
            else:
                failures += 1
    return latencies, failures, time.monotonic()


def _answer(peer: socket.socket) -> bytes:
    answer = peer.recv(65_536)
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += peer.recv(65_536)
    missing = end + 4 + _length(answer[:end]) - len(answer)
    while missing > 0:
        piece = peer.recv(missing)
        answer, missing = answer + piece, missing - len(piece)
    return answer


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError(f"expected a Content-Length, got {head[:200]!r}")
