"""The last `stat` document of each pipeline and device, with its age, and a feed of all of them.

Devices publish their status. They are never queried for it.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import msgspec
import zmq.asyncio

from streamfleet_api.broker_client import Endpoints
from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.filters import StatusFilter
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.send_queue import Message, SendQueue
from streamfleet_api.feeds.status_summary import PipelineSummary
from streamfleet_api.feeds.subscribers import Hub, Subscriber, SubscriberRegistry
from streamfleet_api.feeds.zmq_subscription import UNREADABLE, Key, LogThrottle, Order, received, sub_socket
from streamfleet_core.protocol.data_plane import ordered
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.rates import Bucket, Rate
from streamfleet_core.protocol.requests import PipelineView
from streamfleet_core.protocol.status import DeviceStat, PipelineStat
from streamfleet_core.runtime.curve import CurveKeys

MAX_SUBJECTS = 20_000  # pipelines, and devices; the one silent for longest is dropped first
STALE = 5.0  # seconds after which a rate is outdated
# Bytes of one pipeline or device: many times what it sends when all of its sources reconnect.
BUDGET = Rate(262_144, 1_048_576)
_EACH = 4_096  # minimum bytes that a message counts as

T = TypeVar("T", PipelineStat, DeviceStat, PipelineSummary)
P = TypeVar("P", PipelineStat, DeviceStat, PipelineSummary)  # of a method of a type with T
_PIPELINES = msgspec.msgpack.Decoder(PipelineStat)
_SUMMARIES = msgspec.msgpack.Decoder(PipelineSummary)
_DEVICES = msgspec.msgpack.Decoder(DeviceStat)


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A document and its age."""

    stat: T
    age: float  # seconds


def as_of_now(seen: Seen[PipelineStat]) -> PipelineStat:
    """Update a status to the present: ages increase, and the rates of an outdated one are 0."""
    stale = seen.age > STALE
    sources = tuple(
        replace(
            source,
            fps=0.0 if stale else source.fps,
            frozen_for=None if stale else source.frozen_for,
            last_frame_age=None
            if source.last_frame_age is None
            else round(source.last_frame_age + seen.age, 3),
        )
        for source in seen.stat.sources
    )
    report = {**seen.stat.report, "inference_throughput": 0.0} if stale else seen.stat.report
    return replace(seen.stat, fps=0.0 if stale else seen.stat.fps, sources=sources, report=report)


class _Entry(Generic[T]):
    """The last document of one subject. It is decoded and encoded when a client asks: most are replaced."""

    __slots__ = ("_decoder", "_message", "_name", "_stat", "body", "budget", "order")

    def __init__(self, name: str, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self.order = Order()
        self.budget = Bucket(BUDGET)
        self.body = b""
        self._name = name
        self._decoder: msgspec.msgpack.Decoder[T] = decoder
        self._stat: T | None = None
        self._message: Message | None = None

    def replace(self, body: bytes) -> None:
        """Keep another document."""
        self.body = body
        self._stat = self._message = None

    def stat(self, *, keep: bool = True) -> T:
        """The document. Raises: BadData.

        `keep` it decoded, for the client that asks next. Those of a large fleet would cost
        the garbage collector much.
        """
        if self._stat is not None:
            return self._stat
        stat = self.read(self._decoder)
        if keep:
            self._stat = stat
        return stat

    def read(self, decoder: msgspec.msgpack.Decoder[P]) -> P:
        """The document as another type, not kept. Raises: BadData."""
        try:
            return _decoded(decoder, self._name, self.body)
        except BadData:
            self.body = b""  # an unreadable one is looked at once
            raise

    def message(self, subject: str) -> Message:
        """The document for subscribers. Raises: BadData."""
        if self._message is None:
            self._message = Message(kind="status", data=msgspec.json.encode(self.stat()), subject=subject)
        return self._message


class Board:
    """The last documents, without a socket or a clock. `now` is in monotonic seconds.

    Args:
        limit: pipelines, and devices.
        on_unreadable: called with the error when a document that a client asks for cannot be read.
    """

    def __init__(
        self, *, limit: int = MAX_SUBJECTS, on_unreadable: Callable[[BadData], None] = lambda _: None
    ) -> None:
        self._limit = limit
        self._on_unreadable = on_unreadable
        self._pipelines: OrderedDict[str, _Entry[PipelineStat]] = OrderedDict()
        self._devices: OrderedDict[str, _Entry[DeviceStat]] = OrderedDict()

    def receive(self, frames: Sequence[bytes], now: float) -> str | None:
        """Keep a document and return its subject; None if it is outdated. Raises: BadData."""
        subject, key, body = ordered(frames)
        if subject.startswith("@"):
            is_new = self._keep(self._devices, _DEVICES, subject[1:], key, body, now)
        else:
            is_new = self._keep(self._pipelines, _PIPELINES, subject, key, body, now)
        return subject if is_new else None

    def pipeline(self, pipeline_id: str, now: float) -> Seen[PipelineStat] | None:
        """The last document of a pipeline; None without one that can be read."""
        return self._seen(self._pipelines.get(pipeline_id), now, lambda entry: entry.stat())

    def summary(self, pipeline_id: str, now: float) -> Seen[PipelineSummary] | None:
        """A part of it; None likewise."""
        return self._seen(self._pipelines.get(pipeline_id), now, lambda entry: entry.read(_SUMMARIES))

    def device(self, device: str, now: float, *, keep: bool = True) -> Seen[DeviceStat] | None:
        """The last document of a device; None likewise. `keep`: as of an entry."""
        return self._seen(self._devices.get(device), now, lambda entry: entry.stat(keep=keep))

    def news(self, subject: str) -> tuple[PipelineStat | DeviceStat, Message] | None:
        """The last document of a pipeline or of `@DEVICE`, with its message; None if it cannot be read."""
        entry: _Entry[Any] = (
            self._devices[subject[1:]] if subject.startswith("@") else self._pipelines[subject]
        )
        try:
            return entry.stat(), entry.message(subject)
        except BadData as exc:
            self._on_unreadable(exc)
            return None

    def latest(
        self, chosen: StatusFilter, labels: Callable[[str], Mapping[str, str] | None]
    ) -> list[Message]:
        """The last documents that match a filter, devices first."""
        devices = [self.news(f"@{name}") for name in self._devices if chosen.wants_device(name)]
        pipelines = [self.news(pipeline_id) for pipeline_id in self._pipelines]
        return [message for _, message in filter(None, devices)] + [
            message
            for stat, message in filter(None, pipelines)
            if isinstance(stat, PipelineStat)
            and chosen.wants_pipeline(stat.pipeline_id, stat.device, labels(stat.pipeline_id))
        ]

    def retain(self, pipeline_ids: Collection[str]) -> None:
        """Forget all other pipelines."""
        for pipeline_id in [each for each in self._pipelines if each not in pipeline_ids]:
            del self._pipelines[pipeline_id]

    def _keep(
        self,
        table: OrderedDict[str, _Entry[T]],
        decoder: msgspec.msgpack.Decoder[T],
        name: str,
        key: Key,
        body: bytes,
        now: float,
    ) -> bool:
        entry = table.get(name)
        if entry is None:
            entry = table[name] = _Entry(name, decoder)
            if len(table) > self._limit:
                table.popitem(last=False)
        if not entry.budget.take(max(len(body), _EACH), now):
            raise BadData(f"no more than {BUDGET.each_second:.0f} bytes a second of {name}", "more")
        if entry.order.accept(key, now) is None:
            return False
        entry.replace(body)
        table.move_to_end(name)
        return True

    def _seen(self, entry: _Entry[T] | None, now: float, read: Callable[[_Entry[T]], P]) -> Seen[P] | None:
        if entry is None:
            return None
        try:
            return Seen(read(entry), now - entry.order.heard)
        except BadData as exc:
            self._on_unreadable(exc)
            return None


class Statuses:
    """The board, fed by a subscription to every `stat` of the fleet, and its subscribers."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoints: Endpoints,
        keys: CurveKeys | None,
        subscribers: SubscriberRegistry,
        pipeline_cache: PipelineCache,
    ) -> None:
        self._context = context
        self._endpoints = endpoints
        self._keys = keys
        self._pipeline_cache = pipeline_cache
        self._hub: Hub[StatusFilter] = Hub(subscribers)
        self._log_throttle = LogThrottle()
        self._board = Board(on_unreadable=lambda exc: self._log_throttle.log("a status", exc))
        self._work = Background("statuses", self._run)
        pipeline_cache.on_refresh(self._retain)

    async def start(self) -> None:
        """Subscribe at the relay, which need not run yet."""
        self._work.start()

    async def close(self) -> None:
        """Unsubscribe."""
        await self._work.close()

    def pipeline(self, pipeline_id: str) -> Seen[PipelineStat] | None:
        """The last document of a pipeline, None when there was none."""
        return self._board.pipeline(pipeline_id, time.monotonic())

    def summary(self, pipeline_id: str) -> Seen[PipelineSummary] | None:
        """A part of it, None likewise."""
        return self._board.summary(pipeline_id, time.monotonic())

    def device(self, device: str, *, keep: bool = True) -> Seen[DeviceStat] | None:
        """The last document of a device, None when there was none."""
        return self._board.device(device, time.monotonic(), keep=keep)

    @contextlib.contextmanager
    def subscribe(self, chosen: StatusFilter) -> Iterator[Subscriber]:
        """A subscriber to matching documents: first the last known ones, then new ones.

        Only the newest document of each pipeline and device is queued, so a slow subscriber misses nothing
        that is still true. Raises: StreamRefused.
        """
        watched = self._pipeline_cache.watched() if chosen.selector.needs else contextlib.nullcontext()
        with watched, self._hub.subscribe(chosen, SendQueue(max_messages=MAX_SUBJECTS)) as subscriber:
            for message in self._board.latest(chosen, self._pipeline_cache.labels):
                subscriber.push(message)
            yield subscriber

    async def _run(self) -> None:
        with sub_socket(self._context, self._endpoints, self._keys) as socket:
            socket.subscribe(b"v1/stat/")
            async for frames in received(socket):
                try:
                    subject = self._board.receive(frames, time.monotonic())
                except BadData as exc:
                    self._log_throttle.log("a status", exc)
                    continue
                if subject is not None and self._hub.groups:
                    news = self._board.news(subject)
                    if news is not None:
                        self._push(*news)

    def _push(self, stat: PipelineStat | DeviceStat, message: Message) -> None:
        for chosen, subscribers in self._hub.groups.items():
            if self._wants(chosen, stat):
                for subscriber in subscribers:
                    subscriber.push(message)

    def _wants(self, chosen: StatusFilter, stat: PipelineStat | DeviceStat) -> bool:
        if isinstance(stat, DeviceStat):
            return chosen.wants_device(stat.device)
        return chosen.wants_pipeline(
            stat.pipeline_id, stat.device, self._pipeline_cache.labels(stat.pipeline_id)
        )

    def _retain(self, pipelines: Mapping[str, PipelineView]) -> None:
        self._board.retain(pipelines)


def _decoded(decoder: msgspec.msgpack.Decoder[T], name: str, body: bytes) -> T:
    """Decode a document. Fields unknown to its type are ignored. Raises: BadData."""
    try:
        stat = decoder.decode(body)
    except UNREADABLE as exc:
        raise BadData("a stat document", f"{type(exc).__name__}: {exc}") from exc
    about = stat.device if isinstance(stat, DeviceStat) else stat.pipeline_id
    if about != name:
        raise BadData(f"a document of {name}", f"one of {about}")
    return stat
