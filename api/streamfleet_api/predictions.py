"""The predictions of the fleet: one socket for all who follow, subscribed to no more than what they follow.

Of what nobody follows the last one of each source comes once a second, and is kept for whoever asks.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import msgpack
import msgspec
import zmq.asyncio

from streamfleet_api.audience import Audience, Follower, Hub
from streamfleet_api.background import Background
from streamfleet_api.backlog import Backlog, Message, gap
from streamfleet_api.filters import Document, PredictionFilter
from streamfleet_api.link import CurveKeys
from streamfleet_api.roster import Roster
from streamfleet_api.subscriber import UNREADABLE, Key, Order, name_of, received, subscriber
from streamfleet_api.topics import Topics
from streamfleet_api.wire import render
from streamfleet_broker.protocol.data import DataHeader, Kind, pipeline_topic, split
from streamfleet_broker.protocol.errors import BadData
from streamfleet_broker.protocol.requests import PipelineView
from streamfleet_broker.protocol.values import MAX_SOURCES, Id, from_plain

logger = logging.getLogger(__name__)

MAX_SUBJECTS = 20_000
MAX_KEPT = 64 * 1024**2  # bytes of last predictions
_EVERYTHING = b"v1/pred/"
_LASTS = b"v1/last/"

Tap = Callable[[DataHeader, bytes], None]  # of each prediction of a pipeline, its body as it came


@dataclass(frozen=True, slots=True)
class Last:
    """The last prediction of one source, as it came."""

    key: Key
    body: bytes  # msgpack


class Lasts:
    """The last prediction of each source of each pipeline, in so many bytes at most."""

    def __init__(self, *, limit: int = MAX_KEPT) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, dict[int, Last]] = OrderedDict()  # the most silent pipeline first

    def keep(self, pipeline_id: str, source: int, last: Last) -> None:
        """In place of the one before; what was silent for longest goes when there is no room."""
        sources = self._kept.setdefault(pipeline_id, {})
        self._kept.move_to_end(pipeline_id)
        if source in sources:
            self._size -= len(sources[source].body)
        sources[source] = last
        self._size += len(last.body)
        while self._size > self._limit:
            self._forget(next(iter(self._kept)))

    def find(self, pipeline_id: str, source: int | None) -> Last | None:
        """Of one source, or of whichever had the last."""
        sources = self._kept.get(pipeline_id, {})
        if source is not None:
            return sources.get(source)
        return max(sources.values(), key=lambda last: last.key, default=None)

    def retain(self, pipeline_ids: Collection[str]) -> None:
        """Forget all others."""
        for pipeline_id in [each for each in self._kept if each not in pipeline_ids]:
            self._forget(pipeline_id)

    def _forget(self, pipeline_id: str) -> None:
        self._size -= sum(len(last.body) for last in self._kept.pop(pipeline_id).values())


class Predictions:
    """The subscription, the last of everything, and those who follow."""

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
        self._hub: Hub[PredictionFilter] = Hub(audience)
        self._roster = roster
        self._lasts = Lasts()
        self._topics = Topics(changed=self._forget)
        self._taps: dict[str, Tap] = {}
        self._orders: dict[tuple[str, int | None], Order] = {}  # by pipeline; of last ones, by source too
        self._work = Background("predictions", self._run)
        roster.when_seen(self._retain)

    async def start(self) -> None:
        """Subscribe; the relay need not be there yet."""
        self._work.start()

    async def close(self) -> None:
        """Unsubscribe."""
        await self._work.close()

    @contextlib.contextmanager
    def follow(self, chosen: PredictionFilter) -> Iterator[Follower]:
        """A follower of what was chosen, from now on. Raises: TooManyFollowers."""
        watched = self._roster.watched() if chosen.selector.needs else contextlib.nullcontext()
        with contextlib.ExitStack() as stack:
            stack.enter_context(watched)
            follower = stack.enter_context(self._hub.follow(chosen, Backlog()))
            for topic in topics_of(chosen):
                stack.enter_context(self._topics.followed(topic))
            yield follower

    @contextlib.contextmanager
    def tapped(self, pipeline_id: str, tap: Tap) -> Iterator[None]:
        """Give every prediction of a pipeline to `tap` from now on; a pipeline has one tap at most."""
        assert pipeline_id not in self._taps
        with self._topics.followed(pipeline_topic(Kind.PRED, pipeline_id)):
            self._taps[pipeline_id] = tap
            try:
                yield
            finally:
                del self._taps[pipeline_id]

    def last(self, pipeline_id: str, source: int | None) -> Message | None:
        """The last prediction, at most a second old; None when none has come that can be shown."""
        last = self._lasts.find(pipeline_id, source)
        try:
            return None if last is None else _message(last.key, _document(last.body))
        except BadData as exc:
            logger.warning("the last prediction of %s cannot be shown: %s", pipeline_id, exc)
            return None

    async def _run(self) -> None:
        socket = subscriber(self._context, self._endpoint, self._keys)
        with socket, self._topics.served_by(socket):
            socket.subscribe(_LASTS)
            async for frames in received(socket):
                try:
                    self._receive(frames, time.monotonic())
                except BadData as exc:
                    logger.warning("relay: dropped a prediction: %s", exc)

    def _receive(self, frames: list[bytes], now: float) -> None:
        pipeline_id, header, body = split(frames)
        if header.source >= MAX_SOURCES:
            raise BadData(f"a source below {MAX_SOURCES}", str(header.source))
        followed = header.kind is Kind.PRED
        missing = self._order(pipeline_id, None if followed else header.source).accept(header.key, now)
        if missing is None:
            return
        self._lasts.keep(pipeline_id, header.source, Last(header.key, body))
        if followed and pipeline_id in self._taps:
            self._taps[pipeline_id](header, body)
        if followed and self._hub.groups:
            self._tell(pipeline_id, header, _document(body), missing)

    def _order(self, pipeline_id: str, source: int | None) -> Order:
        order = self._orders.get((pipeline_id, source))
        if order is None:
            if len(self._orders) >= MAX_SUBJECTS:
                self._orders.clear()
            order = self._orders[_checked(pipeline_id), source] = Order()
        return order

    def _tell(self, pipeline_id: str, header: DataHeader, document: Document, missing: int) -> None:
        labels = self._roster.labels(pipeline_id)
        note = gap(missing, pipeline_id) if missing else None
        whole: Message | None = None
        for chosen, followers in self._hub.groups.items():
            if not chosen.concerns(pipeline_id, labels):
                continue
            picked = chosen.pick(document)
            told = [] if note is None else [note]
            if picked is document:
                whole = whole or _message(header.key, document)
                told.append(whole)
            elif picked is not None:
                told.append(_message(header.key, picked))
            for follower in followers:
                for message in told:
                    follower.push(message)

    def _forget(self, topic: bytes) -> None:
        """What came between two subscriptions is nobody's gap."""
        if topic == _EVERYTHING:
            self._orders.clear()
        else:
            self._orders.pop((topic.split(b"/")[2].decode("ascii"), None), None)

    def _retain(self, pipelines: Mapping[str, PipelineView]) -> None:
        self._lasts.retain(pipelines)


def topics_of(chosen: PredictionFilter) -> list[bytes]:
    """What a follower needs: no more than the pipelines that it names."""
    return [pipeline_topic(Kind.PRED, each) for each in sorted(chosen.pipelines)] or [_EVERYTHING]


def _checked(pipeline_id: str) -> str:
    try:
        return from_plain(pipeline_id, Id)
    except msgspec.ValidationError as exc:
        raise BadData("a topic with a pipeline's id", repr(pipeline_id[:80])) from exc


def _document(body: bytes) -> Document:
    try:
        document = msgpack.unpackb(body)
    except UNREADABLE as exc:
        raise BadData("a prediction", f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(document, dict):
        raise BadData("a prediction, which is a map", type(document).__name__)
    return document


def _message(key: Key, document: Document) -> Message:
    try:
        return Message("prediction", render(document), name_of(key))
    except UNREADABLE as exc:
        raise BadData("a prediction", f"{type(exc).__name__}: {exc}") from exc
