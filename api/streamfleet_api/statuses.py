"""The last `stat` document of each pipeline and device, with its age, and all of them as they come.

Nobody is ever asked for a status.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import msgpack
import zmq.asyncio

from streamfleet_api.audience import Audience, Follower, Hub
from streamfleet_api.background import Background
from streamfleet_api.backlog import Backlog, Message
from streamfleet_api.filters import StatusFilter
from streamfleet_api.link import CurveKeys
from streamfleet_api.roster import Roster
from streamfleet_api.subscriber import UNREADABLE, Key, Order, received, subscriber
from streamfleet_api.wire import render
from streamfleet_broker.protocol.data import split
from streamfleet_broker.protocol.errors import BadData
from streamfleet_broker.protocol.requests import PipelineView
from streamfleet_broker.protocol.status import DeviceStat, PipelineStat
from streamfleet_broker.protocol.values import from_plain

logger = logging.getLogger(__name__)

MAX_SUBJECTS = 20_000  # of each kind; the one that was silent for longest goes first
STALE = 5.0  # seconds after which a rate says nothing of the present any more

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A document, and how long ago it came."""

    stat: T
    age: float  # seconds


def as_of_now(seen: Seen[PipelineStat]) -> PipelineStat:
    """What a status says of the present: ages go on, and the rates of one that is too old are 0."""
    stale = seen.age > STALE
    sources = tuple(
        replace(
            source,
            fps=0.0 if stale else source.fps,
            still_for=None if stale else source.still_for,
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
    stat: T
    message: Message


class Board:
    """The documents. It has no socket and no clock: `now` is in monotonic seconds."""

    def __init__(self, *, limit: int = MAX_SUBJECTS) -> None:
        self._limit = limit
        self._pipelines: OrderedDict[str, _Entry[PipelineStat]] = OrderedDict()
        self._devices: OrderedDict[str, _Entry[DeviceStat]] = OrderedDict()

    def receive(
        self, frames: Sequence[bytes], now: float
    ) -> tuple[PipelineStat | DeviceStat, Message] | None:
        """Keep a document, and what tells it; None when a later one came before it. Raises: BadData."""
        subject, header, body = split(frames)
        try:
            plain = msgpack.unpackb(body)
            # What cannot be shown is refused here, not in every answer that would hold it.
            message = Message("status", render(plain), subject=subject)
            if subject.startswith("@"):
                device = from_plain(plain, DeviceStat)
                kept = self._keep(self._devices, subject[1:], header.key, device, message, now)
                return (device, message) if kept else None
            pipeline = from_plain(plain, PipelineStat)
            kept = self._keep(self._pipelines, subject, header.key, pipeline, message, now)
            return (pipeline, message) if kept else None
        except UNREADABLE as exc:
            raise BadData("a stat document", f"{type(exc).__name__}: {exc}") from exc

    def pipeline(self, pipeline_id: str, now: float) -> Seen[PipelineStat] | None:
        """The last document of a pipeline, None when there was none."""
        return self._seen(self._pipelines, pipeline_id, now)

    def device(self, device: str, now: float) -> Seen[DeviceStat] | None:
        """The last document of a device, None when there was none."""
        return self._seen(self._devices, device, now)

    def told(self, chosen: StatusFilter, labels: Callable[[str], Mapping[str, str] | None]) -> list[Message]:
        """The last documents of all that was chosen, devices first."""
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
        subject: str,
        key: Key,
        stat: T,
        message: Message,
        now: float,
    ) -> bool:
        order = table[subject].order if subject in table else Order()
        if order.accept(key, now) is None:
            return False
        table[subject] = _Entry(order, stat, message)
        table.move_to_end(subject)
        if len(table) > self._limit:
            table.popitem(last=False)
        return True

    @staticmethod
    def _seen(table: OrderedDict[str, _Entry[T]], subject: str, now: float) -> Seen[T] | None:
        if subject not in table:
            return None
        entry = table[subject]
        return Seen(entry.stat, now - entry.order.heard)


class Statuses:
    """The board, fed by a subscription to every `stat` of the fleet, and those who follow it."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        keys: CurveKeys | None,
        audience: Audience,
        roster: Roster,
    ) -> None:
        self._context = context
        self._endpoint = endpoint
        self._keys = keys
        self._roster = roster
        self._hub: Hub[StatusFilter] = Hub(audience)
        self._board = Board()
        self._work = Background("statuses", self._run)
        roster.when_seen(self._retain)

    async def start(self) -> None:
        """Subscribe; the relay need not be there yet."""
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
    def follow(self, chosen: StatusFilter) -> Iterator[Follower]:
        """A follower of what was chosen: the last known first, then what comes. Raises: TooManyFollowers.

        Of each pipeline and device the newest waits, so a slow follower misses nothing that is still true.
        """
        watched = self._roster.watched() if chosen.selector.needs else contextlib.nullcontext()
        with watched, self._hub.follow(chosen, Backlog(max_messages=MAX_SUBJECTS)) as follower:
            for message in self._board.told(chosen, self._roster.labels):
                follower.push(message)
            yield follower

    async def _run(self) -> None:
        with subscriber(self._context, self._endpoint, self._keys) as socket:
            socket.subscribe(b"v1/stat/")
            async for frames in received(socket):
                try:
                    news = self._board.receive(frames, time.monotonic())
                except BadData as exc:
                    logger.warning("relay: dropped a status: %s", exc)
                    continue
                if news is not None and self._hub.groups:
                    self._tell(*news)

    def _tell(self, stat: PipelineStat | DeviceStat, message: Message) -> None:
        for chosen, followers in self._hub.groups.items():
            if self._wants(chosen, stat):
                for follower in followers:
                    follower.push(message)

    def _wants(self, chosen: StatusFilter, stat: PipelineStat | DeviceStat) -> bool:
        if isinstance(stat, DeviceStat):
            return chosen.wants_device(stat.device)
        return chosen.wants_pipeline(stat.pipeline_id, stat.device, self._roster.labels(stat.pipeline_id))

    def _retain(self, pipelines: Mapping[str, PipelineView]) -> None:
        self._board.retain(pipelines)
