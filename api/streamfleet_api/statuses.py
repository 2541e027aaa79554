"""The last `stat` document of each pipeline and device, with its age. Nobody is ever asked for a status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgpack
import zmq.asyncio

from streamfleet_api.link import CurveKeys
from streamfleet_api.subscriber import UNREADABLE, Order, subscriber
from streamfleet_api.wire import render
from streamfleet_broker.protocol.data import split
from streamfleet_broker.protocol.errors import BadData
from streamfleet_broker.protocol.status import DeviceStat, PipelineStat
from streamfleet_broker.protocol.values import from_plain

logger = logging.getLogger(__name__)

MAX_SUBJECTS = 20_000  # of each kind; the one that was silent for longest goes first

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A document, and how long ago it came."""

    stat: T
    age: float  # seconds


class Board:
    """The documents. It has no socket and no clock: `now` is in monotonic seconds."""

    def __init__(self, *, limit: int = MAX_SUBJECTS) -> None:
        self._limit = limit
        self._pipelines: OrderedDict[str, tuple[Order, PipelineStat]] = OrderedDict()
        self._devices: OrderedDict[str, tuple[Order, DeviceStat]] = OrderedDict()

    def receive(self, frames: Sequence[bytes], now: float) -> None:
        """Keep a document, unless a later one came before it. Raises: BadData."""
        subject, header, body = split(frames)
        try:
            plain = msgpack.unpackb(body)
            render(plain)  # what cannot be shown is refused here, not in every answer that would hold it
            if subject.startswith("@"):
                self._keep(self._devices, subject[1:], header.key, from_plain(plain, DeviceStat), now)
            else:
                self._keep(self._pipelines, subject, header.key, from_plain(plain, PipelineStat), now)
        except UNREADABLE as exc:
            raise BadData("a stat document", f"{type(exc).__name__}: {exc}") from exc

    def pipeline(self, pipeline_id: str, now: float) -> Seen[PipelineStat] | None:
        """The last document of a pipeline, None when there was none."""
        return self._seen(self._pipelines, pipeline_id, now)

    def device(self, device: str, now: float) -> Seen[DeviceStat] | None:
        """The last document of a device, None when there was none."""
        return self._seen(self._devices, device, now)

    def _keep(
        self,
        table: OrderedDict[str, tuple[Order, T]],
        subject: str,
        key: tuple[int, int, int],
        stat: T,
        now: float,
    ) -> None:
        order = table[subject][0] if subject in table else Order()
        if order.accept(key, now) is None:
            return
        table[subject] = (order, stat)
        table.move_to_end(subject)
        if len(table) > self._limit:
            table.popitem(last=False)

    @staticmethod
    def _seen(table: OrderedDict[str, tuple[Order, T]], subject: str, now: float) -> Seen[T] | None:
        if subject not in table:
            return None
        order, stat = table[subject]
        return Seen(stat, now - order.heard)


class Statuses:
    """The board, fed by a subscription to every `stat` of the fleet."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, keys: CurveKeys | None) -> None:
        self._context = context
        self._endpoint = endpoint
        self._keys = keys
        self._board = Board()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribe; the relay need not be there yet."""
        self._task = asyncio.create_task(self._run(), name="statuses")

    async def close(self) -> None:
        """Unsubscribe."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def pipeline(self, pipeline_id: str) -> Seen[PipelineStat] | None:
        """The last document of a pipeline, None when there was none."""
        return self._board.pipeline(pipeline_id, time.monotonic())

    def device(self, device: str) -> Seen[DeviceStat] | None:
        """The last document of a device, None when there was none."""
        return self._board.device(device, time.monotonic())

    async def _run(self) -> None:
        with subscriber(self._context, self._endpoint, self._keys) as socket:
            socket.subscribe(b"v1/stat/")
            while True:
                frames = await socket.recv_multipart()
                try:
                    self._board.receive(frames, time.monotonic())
                except BadData as exc:
                    logger.warning("relay: dropped a status: %s", exc)
