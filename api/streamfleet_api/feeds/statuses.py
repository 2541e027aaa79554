"""The last `stat` document of each pipeline and device, with its age, and a feed of all of them.

Devices publish their status. They are never queried for it.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import msgspec
import zmq.asyncio

from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.filters import StatusFilter
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.send_queue import Message, SendQueue
from streamfleet_api.feeds.subscribers import Hub, Subscriber, SubscriberRegistry
from streamfleet_api.feeds.zmq_subscription import UNREADABLE, Key, LogThrottle, Order, received, sub_socket
from streamfleet_core.protocol.data_plane import split
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

T = TypeVar("T", PipelineStat, DeviceStat)
_PIPELINES = msgspec.msgpack.Decoder(PipelineStat)
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


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    order: Order
    budget: Bucket
    stat: T
    message: Message


class Board:
    """The last documents, without a socket or a clock. `now` is in monotonic seconds."""

    def __init__(self, *, limit: int = MAX_SUBJECTS) -> None:
        self._limit = limit
        self._pipelines: OrderedDict[str, _Entry[PipelineStat]] = OrderedDict()
        self._devices: OrderedDict[str, _Entry[DeviceStat]] = OrderedDict()

    def receive(
        self, frames: Sequence[bytes], now: float
    ) -> tuple[PipelineStat | DeviceStat, Message] | None:
        """Keep a document and return it with its message; None if it is outdated. Raises: BadData."""
        subject, header, body = split(frames)
        if subject.startswith("@"):
            return self._keep(self._devices, _DEVICES, subject, header.key, body, now)
        return self._keep(self._pipelines, _PIPELINES, subject, header.key, body, now)

    def pipeline(self, pipeline_id: str, now: float) -> Seen[PipelineStat] | None:
        """The last document of a pipeline; None without one."""
        return self._seen(self._pipelines, pipeline_id, now)

    def device(self, device: str, now: float) -> Seen[DeviceStat] | None:
        """The last document of a device, None when there was none."""
        return self._seen(self._devices, device, now)

    def latest(
        self, chosen: StatusFilter, labels: Callable[[str], Mapping[str, str] | None]
    ) -> list[Message]:
        """The last documents that match a filter, devices first."""
        devices = [entry.message for name, entry in self._devices.items() if chosen.wants_device(name)]
        return devices + [
            entry.message
            for pipeline_id, entry in self._pipelines.items()
            if chosen.wants_pipeline(pipeline_id, entry.stat.device, labels(pipeline_id))
        ]

    def retain(self, pipeline_ids: Collection[str]) -> None:
        """Forget all other pipelines."""
        for pipeline_id in [each for each in self._pipelines if each not in pipeline_ids]:
            del self._pipelines[pipeline_id]

    def _keep(
        self,
        table: OrderedDict[str, _Entry[T]],
        decoder: msgspec.msgpack.Decoder[T],
        subject: str,
        key: Key,
        body: bytes,
        now: float,
    ) -> tuple[T, Message] | None:
        name = subject.removeprefix("@")
        known = table.get(name)
        budget = Bucket(BUDGET) if known is None else known.budget
        if not budget.take(max(len(body), _EACH), now):
            raise BadData(f"no more than {BUDGET.each_second:.0f} bytes a second of {subject}", "more")
        stat = _decoded(decoder, name, body)
        order = Order() if known is None else known.order
        if order.accept(key, now) is None:
            return None
        message = Message(kind="status", data=msgspec.json.encode(stat), subject=subject)
        table[name] = _Entry(order, budget, stat, message)
        table.move_to_end(name)
        if len(table) > self._limit:
            table.popitem(last=False)
        return stat, message

    @staticmethod
    def _seen(table: OrderedDict[str, _Entry[T]], subject: str, now: float) -> Seen[T] | None:
        if subject not in table:
            return None
        entry = table[subject]
        return Seen(entry.stat, now - entry.order.heard)


class Statuses:
    """The board, fed by a subscription to every `stat` of the fleet, and its subscribers."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        keys: CurveKeys | None,
        subscribers: SubscriberRegistry,
        pipeline_cache: PipelineCache,
    ) -> None:
        self._context = context
        self._endpoint = endpoint
        self._keys = keys
        self._pipeline_cache = pipeline_cache
        self._hub: Hub[StatusFilter] = Hub(subscribers)
        self._board = Board()
        self._log_throttle = LogThrottle()
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

    def device(self, device: str) -> Seen[DeviceStat] | None:
        """The last document of a device, None when there was none."""
        return self._board.device(device, time.monotonic())

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
        with sub_socket(self._context, self._endpoint, self._keys) as socket:
            socket.subscribe(b"v1/stat/")
            async for frames in received(socket):
                try:
                    news = self._board.receive(frames, time.monotonic())
                except BadData as exc:
                    self._log_throttle.log("a status", exc)
                    continue
                if news is not None and self._hub.groups:
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
