"""The clients that measure an API, in one process: single requests at a low rate, and who looks on."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from benchmarks.processes import start_session
from benchmarks.scale.site import EACH, MODEL, name_of, pipelines_of

PAGE = 100  # pipelines
_SCRAPE = 5.0  # seconds between two scrapes; Prometheus usually waits 15
_LOOK = 1.0  # seconds between two looks of an open page, as the dashboard does
_WRITERS = 8  # connections that put at once, when their number per second is counted
_CARD = "pipeline_id,status,device,reason,fps,latency,age"  # what the dashboard asks for
_LIMIT = 1024**2  # bytes of a line of a stream


@dataclass(slots=True)
class Timings:
    """The seconds of all answers, by kind of request, and the requests without the expected answer."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    written: dict[str, float] = field(default_factory=dict)  # pipeline → its confidence, as it was answered

    def add(self, kind: str, seconds: float) -> None:
        """Add an answer."""
        self.seconds.setdefault(kind, []).append(seconds)


@dataclass(frozen=True, slots=True)
class Task:
    """What to do for how long."""

    port: int
    devices: int
    seconds: float
    burst: bool = False  # put as often as possible, instead of single requests


class Client:
    """One connection, kept alive."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """The status and the body of an answer. Raises: OSError."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        kind = "Content-Type: application/json\r\n" if content else ""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_LIMIT)
        reader, writer = self._streams
        try:
            writer.write(f"{head}{kind}\r\n".encode() + content)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, _, rest = answer.partition(b"content-length:")
            length = int(rest.split(b"\r\n")[0]) if rest else 0
            return int(answer.split()[1]), await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as exc:
            writer.close()
            self._streams = None
            raise OSError(str(exc)) from exc


def measure(connection: Connection) -> None:
    """Do tasks, and answer each with its timings."""
    start_session()
    connection.send(os.getpid())
    while True:
        task: Task = connection.recv()
        connection.send(uvloop.run(_burst(task) if task.burst else _measured(task)))


async def _measured(task: Task) -> Timings:
    """Single requests at a low rate, while a scraper and two open pages look on."""
    timings = Timings()
    asked = (
        ("one read", 0.05, lambda: ("GET", f"/v2/pipelines/{_any(task)}", None)),
        ("one device", 0.2, lambda: ("GET", f"/v2/devices/{name_of(random.randrange(task.devices))}", None)),
        ("one write", 0.1, lambda: _put(_any(task), next(_confidences))),
        ("page", 0.5, lambda: ("GET", f"/v2/pipelines?limit={PAGE}", None)),
        ("scrape", _SCRAPE, lambda: ("GET", "/metrics", None)),
    )
    watchers: list[asyncio.Task[None]] = [
        asyncio.create_task(each) for each in (*_page(task.port), *_page(task.port))
    ]
    await asyncio.gather(*(_repeat(task, timings, *each) for each in asked))
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    return timings


async def _burst(task: Task) -> Timings:
    """Put existing pipelines over several connections, each as often as it is answered."""
    timings = Timings()
    await asyncio.gather(*(_write(task, timings, writer) for writer in range(_WRITERS)))
    return timings


async def _write(task: Task, timings: Timings, writer: int) -> None:
    """Put the pipelines of one writer, and remember what was answered last about each."""
    client, until = Client(task.port), time.monotonic() + task.seconds
    own = [each for device in range(task.devices) for each in pipelines_of(device)][writer::_WRITERS]
    while (began := time.monotonic()) < until:
        pipeline_id, confidence = random.choice(own), next(_confidences)
        timings.written.pop(pipeline_id, None)  # unknown until it is answered
        try:
            status, content = await client.ask(*_put(pipeline_id, confidence))
        except OSError as exc:
            timings.failures.append(f"PUT {pipeline_id}: {exc}")
            await asyncio.sleep(0.1)
            continue
        if status >= 300:
            timings.failures.append(f"PUT {pipeline_id}: {status} {content[:200]!r}")
            continue
        timings.add("put", time.monotonic() - began)
        timings.written[pipeline_id] = confidence


async def _repeat(
    task: Task,
    timings: Timings,
    kind: str,
    every: float,
    request: Callable[[], tuple[str, str, Any]],
) -> None:
    client, until = Client(task.port), time.monotonic() + task.seconds
    while (began := time.monotonic()) < until:
        method, path, body = request()
        try:
            status, content = await client.ask(method, path, body)
        except OSError as exc:
            timings.failures.append(f"{method} {path}: {exc}")
            await asyncio.sleep(0.1)
            continue
        if status >= 300:
            timings.failures.append(f"{method} {path}: {status} {content[:200]!r}")
        timings.add(kind, time.monotonic() - began)
        await asyncio.sleep(max(0.0, began + every - time.monotonic()))


def _page(port: int) -> Iterator[Coroutine[Any, Any, None]]:
    """What a page of the dashboard asks for while it is open."""
    yield _follow(port, "/v2/events")
    yield _look(port)


async def _look(port: int) -> None:
    client = Client(port)
    while True:
        began = time.monotonic()
        with suppress(OSError):
            await client.ask("GET", f"/v2/devices?limit={PAGE}")
            await client.ask("GET", f"/v2/pipelines?limit={PAGE}&fields={_CARD}")
            await client.ask("GET", "/readyz")
        await asyncio.sleep(max(0.0, began + _LOOK - time.monotonic()))


async def _follow(port: int, path: str) -> None:
    """Follow a stream of server-sent events."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while await reader.read(65_536):
                pass
        await asyncio.sleep(1.0)


_confidences = itertools.cycle(number / 100_000 for number in range(1, 100_000))


def _put(pipeline_id: str, confidence: float) -> tuple[str, str, Any]:
    """A change that no camera restarts for."""
    source = f"rtsp://camera.example/{pipeline_id}"
    body = {
        "model": MODEL.id,
        "sources": [source],
        "max_fps": 10,
        "confidence": confidence,
        "labels": {"hall": str(int(pipeline_id.split("-")[1]) % 10)},
    }
    return "PUT", f"/v2/pipelines/{pipeline_id}", body


def _any(task: Task) -> str:
    return pipelines_of(random.randrange(task.devices))[random.randrange(EACH)]
