"""Clients that cost little: a process each, blocking sockets, and bytes that were made beforehand.

Each asks, reads the answer to its end, and asks again. It looks for some bytes in the answer, and no more.
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

MAX_COUNT = 200_000  # questions of one client
PATIENCE = 6.0  # seconds for one answer
_PATIENCE = struct.pack("@qq", int(PATIENCE), 0)  # the same as a timeval
_PIECE = 4096  # bytes that are read at once
_READY = 0.2  # seconds until all clients begin together


@dataclass(frozen=True, slots=True)
class Question:
    """What one client asks in turn, and what an answer has to hold; each is asked over a new connection."""

    port: int
    requests: tuple[bytes, ...]
    expected: bytes
    keep: bool = False  # one connection for all; the answer says its length as HTTP does
    times: int = MAX_COUNT  # after which the client is done, if the time is not over before


@dataclass(frozen=True, slots=True)
class Load:
    """What became of all questions."""

    seconds: float
    latencies: list[float]  # seconds, of those that were answered as expected
    failures: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def load(questions: Sequence[Question], *, seconds: float) -> Load:
    """So many clients at once, each with its next question after its last answer, for so many seconds."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(child(_call)) for _ in questions]
        for connection in connections:
            receive(connection)
        begin = time.monotonic() + _READY
        for connection, question in zip(connections, questions, strict=True):
            connection.send((question, begin, begin + seconds))
        done = [receive(connection, seconds + 3 * PATIENCE) for connection in connections]
    latencies = [latency for found, _, _ in done for latency in found]
    return Load(max(end for _, _, end in done) - begin, latencies, sum(failures for _, failures, _ in done))


def http_get(path: str, *, keep: bool = False) -> bytes:
    """A request without a body."""
    return _http("GET", path, keep)


def http_post(path: str, *, keep: bool = False) -> bytes:
    """The same that changes something."""
    return _http("POST", path, keep)


def framed(payload: bytes) -> bytes:
    """A command of the Stream Manager's protocol."""
    return len(payload).to_bytes(4, "big") + payload


def _http(method: str, path: str, keep: bool) -> bytes:
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    ending = "" if keep else "Connection: close\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}{ending}\r\n".encode()


# in the process of one client -----------------------------------------------------------------------------


def _call(connection: Connection) -> None:
    connection.send("here")
    question, begin, until = connection.recv()
    time.sleep(max(0.0, begin - time.monotonic()))
    connection.send(_kept(question, until) if question.keep else _anew(question, until))


def _anew(question: Question, until: float) -> tuple[list[float], int, float]:
    """Asks an even number of times, so that what was paused is resumed."""
    latencies, failures = [], 0
    address, requests, count = ("127.0.0.1", question.port), question.requests, len(question.requests)
    for number in range(question.times):
        started = time.monotonic()
        if started > until and number % count == 0:
            break
        try:
            with socket.socket() as peer:
                # Not `settimeout`, with which Python polls before each call.
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
                peer.connect(address)
                peer.sendall(requests[number % count])
                answer = peer.recv(_PIECE)
                while piece := peer.recv(_PIECE):
                    answer += piece
        except OSError:
            answer = b""
        if question.expected in answer:
            latencies.append(time.monotonic() - started)
        else:
            failures += 1
    return latencies, failures, time.monotonic()


def _kept(question: Question, until: float) -> tuple[list[float], int, float]:
    latencies, failures = [], 0
    with socket.create_connection(("127.0.0.1", question.port), timeout=PATIENCE) as peer:
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
    raise ValueError(f"expected a Content-Length, came {head[:200]!r}")
