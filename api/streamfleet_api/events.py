"""Predictions as Server-Sent Events. A client that reads too slowly loses the oldest, and is told how many.

data: {"image": …}                     one prediction, its id is gen-inc-seq
event: gap    data: {"gap": n, …}      n predictions are missing here
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator

import msgpack
import zmq.asyncio
from starlette.types import Receive, Scope, Send

from streamfleet_api.link import CurveKeys
from streamfleet_api.subscriber import UNREADABLE, Order, subscriber
from streamfleet_api.wire import render
from streamfleet_broker.protocol.data import DataHeader, Kind, pipeline_topic, split
from streamfleet_broker.protocol.errors import BadData

logger = logging.getLogger(__name__)

MAX_FOLLOWERS = 100
MAX_SUBJECTS = 20_000
MAX_EVENTS = 256  # that wait for one follower
MAX_BYTES = 4 * 1024**2  # that wait for one follower
PING = 5.0  # seconds of silence after which a comment shows that the stream lives
STUCK = 30.0  # seconds that a follower may take nothing at all
_BATCH = 64  # events written at once
_EVERYTHING = b"v1/pred/"


class TooManyFollowers(Exception):
    """Each follower costs memory, so their number is bounded."""

    def __init__(self) -> None:
        super().__init__(f"{MAX_FOLLOWERS} streams of predictions are open already: close one")


class Backlog:
    """What one follower has yet to get. When it is full the oldest events go, and are counted."""

    def __init__(self, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0

    def push(self, event: bytes) -> None:
        """Add an event."""
        self._events.append(event)
        self._bytes += len(event)
        while len(self._events) > 1 and (
            len(self._events) > self._max_events or self._bytes > self._max_bytes
        ):
            self._bytes -= len(self._events.popleft())
            self._lost += 1

    def take(self) -> bytes:
        """The next events as one piece of the stream, after a note of those that went."""
        lost, self._lost = self._lost, 0
        events = [self._events.popleft() for _ in range(min(_BATCH, len(self._events)))]
        self._bytes -= sum(map(len, events))
        return (_gap({"gap": lost}) if lost else b"") + b"".join(events)

    def __bool__(self) -> bool:
        return bool(self._events)


class Follower:
    """One client: what waits for it, and an event that says so."""

    def __init__(self, topic: bytes) -> None:
        self.topic = topic
        self.backlog = Backlog()
        self.ready = asyncio.Event()

    def push(self, event: bytes) -> None:
        """Add an event to what waits."""
        self.backlog.push(event)
        self.ready.set()


class Predictions:
    """One subscription to the relay, as narrow as its followers allow, shared by all of them."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, keys: CurveKeys | None) -> None:
        self._context = context
        self._endpoint = endpoint
        self._keys = keys
        self._socket: zmq.asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._followers: set[Follower] = set()
        self._topics: Counter[bytes] = Counter()
        self._orders: dict[bytes, Order] = {}  # by topic
        self._ended = False

    async def start(self) -> None:
        """Connect; the relay need not be there yet."""
        self._socket = subscriber(self._context, self._endpoint, self._keys)
        self._task = asyncio.create_task(self._run(self._socket), name="predictions")

    async def close(self) -> None:
        """End all streams and disconnect."""
        self.end()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._socket is not None:
            self._socket.close(linger=0)

    def end(self) -> None:
        """Let every stream end after what it has."""
        self._ended = True
        for follower in self._followers:
            follower.ready.set()

    @property
    def ended(self) -> bool:
        """No stream may wait for more."""
        return self._ended

    @contextlib.contextmanager
    def follow(self, pipeline_id: str | None) -> Iterator[Follower]:
        """A follower of one pipeline, or of all. Raises: TooManyFollowers."""
        if len(self._followers) >= MAX_FOLLOWERS:
            raise TooManyFollowers
        follower = Follower(_EVERYTHING if pipeline_id is None else pipeline_topic(Kind.PRED, pipeline_id))
        assert self._socket is not None, "start() comes first"
        if not self._topics[follower.topic]:
            self._socket.subscribe(follower.topic)
        self._topics[follower.topic] += 1
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            self._topics[follower.topic] -= 1
            if not self._topics[follower.topic]:
                del self._topics[follower.topic]
                self._socket.unsubscribe(follower.topic)
                self._orders = {
                    topic: order
                    for topic, order in self._orders.items()
                    if _EVERYTHING in self._topics or topic in self._topics
                }

    async def _run(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            try:
                self._receive(frames, time.monotonic())
            except BadData as exc:
                logger.warning("relay: dropped a prediction: %s", exc)
            await asyncio.sleep(0)  # an always busy socket would starve everything else (pyzmq #1928)

    def _receive(self, frames: list[bytes], now: float) -> None:
        subject, header, body = split(frames)
        if len(self._orders) > MAX_SUBJECTS:
            self._orders.clear()
        missing = self._orders.setdefault(frames[0], Order()).accept(header.key, now)
        if missing is None:
            return
        event = _event(header, body)
        if missing:
            event = _gap({"gap": missing, "pipeline_id": subject}) + event
        for follower in self._followers:
            if frames[0].startswith(follower.topic):
                follower.push(event)


class EventStream:
    """The answer to one client: it ends when the client goes, takes nothing for long, or the api stops."""

    def __init__(self, predictions: Predictions, pipeline_id: str | None) -> None:
        self._predictions = predictions
        self._pipeline_id = pipeline_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._predictions.follow(self._pipeline_id) as follower:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send(_piece(b": predictions follow\n\n"))
            gone = asyncio.create_task(_until_gone(receive), name="predictions client")
            try:
                await self._write(follower, gone, send)
            except asyncio.TimeoutError:
                logger.warning("a client of predictions took nothing for %.0f s: left", STUCK)
            finally:
                gone.cancel()

    async def _write(self, follower: Follower, gone: asyncio.Task[None], send: Send) -> None:
        while not gone.done():
            happened = await _either(follower.ready, gone, PING)
            follower.ready.clear()
            if not happened:
                await _send(send, b":\n\n")
            while follower.backlog and not gone.done():
                await _send(send, follower.backlog.take())
            if self._predictions.ended:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _either(event: asyncio.Event, gone: asyncio.Task[None], timeout: float) -> bool:
    """Whether one of the two happened in time."""
    waiting = asyncio.create_task(event.wait())
    try:
        done, _ = await asyncio.wait([waiting, gone], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return bool(done)


async def _send(send: Send, content: bytes) -> None:
    await asyncio.wait_for(send(_piece(content)), STUCK)


def _piece(content: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": content, "more_body": True}


def _event(header: DataHeader, body: bytes) -> bytes:
    try:
        text = render(msgpack.unpackb(body))
    except UNREADABLE as exc:
        raise BadData("a prediction", f"{type(exc).__name__}: {exc}") from exc
    return b"id: %d-%d-%d\ndata: %s\n\n" % (*header.key, text)


def _gap(content: dict[str, object]) -> bytes:
    return b"event: gap\ndata: %s\n\n" % render(content)
