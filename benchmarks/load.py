"""HTTP clients that cost little: they read an answer to its end, and look at its status alone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_PATIENCE = 15.0  # seconds for one answer

Request = tuple[str, str]  # method and path
Next = Callable[[int, int], Request]  # what a client asks: its number, and how often it has asked before


@dataclass(frozen=True, slots=True)
class Load:
    """What became of all requests."""

    seconds: float
    latencies: list[float]  # seconds, of those that were answered 200
    failures: Counter[int]  # that were answered otherwise, by status

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def load(port: int, ask: Next, *, clients: int, keep: bool, seconds: float) -> Load:
    """So many clients at once, each with its next request after its last answer, for so many seconds."""
    return asyncio.run(_load(port, ask, clients, keep, seconds))


async def _load(port: int, ask: Next, clients: int, keep: bool, seconds: float) -> Load:
    started = time.monotonic()
    callers = [_Caller(port, keep) for _ in range(clients)]
    await asyncio.gather(
        *(caller.work(ask, number, started + seconds) for number, caller in enumerate(callers))
    )
    latencies = [latency for caller in callers for latency in caller.latencies]
    failures = sum((caller.failures for caller in callers), Counter[int]())
    return Load(time.monotonic() - started, latencies, failures)


class _Caller:
    """One client, with one connection for all requests or a new one for each."""

    def __init__(self, port: int, keep: bool) -> None:
        self._port = port
        self._keep = keep
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.latencies: list[float] = []
        self.failures: Counter[int] = Counter()

    async def work(self, ask: Next, number: int, until: float) -> None:
        """Ask, an even number of times, so that what was paused is resumed."""
        count = 0
        while time.monotonic() < until or count % 2:
            method, path = ask(number, count)
            started = time.monotonic()
            status = await asyncio.wait_for(self._call(method, path), _PATIENCE)
            if status == 200:
                self.latencies.append(time.monotonic() - started)
            else:
                self.failures[status] += 1
            count += 1
        self._hang_up()

    async def _call(self, method: str, path: str) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        connection = "" if self._keep else "Connection: close\r\n"
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}{connection}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head))
        if not self._keep:
            self._hang_up()
        return int(head[9:12])

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError(f"expected a Content-Length, came {head[:200]!r}")
