"""The predictions of the fleet: one socket for all subscribers, subscribed to no more than they need.

The last prediction of each source arrives once a second, with or without subscribers, and is kept. Of a large
fleet, only those of pipelines that a client has asked for a moment ago: no client asks for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import zmq.asyncio

from streamfleet_api.broker_client import Endpoints
from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.filters import Document, PredictionFilter
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.send_queue import Message, SendQueue, gap
from streamfleet_api.feeds.subscribers import Hub, Subscriber, SubscriberRegistry
from streamfleet_api.feeds.topic_refcounts import TopicRefCounts
from streamfleet_api.feeds.zmq_subscription import Key, LogThrottle, Order, name_of, received, sub_socket
from streamfleet_core.protocol.data_plane import (
    DataHeader,
    Kind,
    ordered,
    pipeline_topic,
    source_of,
    split,
)
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_SOURCES
from streamfleet_core.protocol.prediction import decode
from streamfleet_core.protocol.rates import Bucket, Rate
from streamfleet_core.protocol.requests import PipelineView
from streamfleet_core.protocol.values import Id, from_plain
from streamfleet_core.runtime.curve import CurveKeys

logger = logging.getLogger(__name__)

MAX_SUBJECTS = 20_000
MAX_KEPT = 64 * 1024**2  # bytes of last predictions
# Bytes of one subscribed pipeline: many times what 16 sources full of objects produce.
BUDGET = Rate(16 * 1024**2, 32 * 1024**2)
_EACH = 512  # minimum bytes that a message counts as
MANY = 1_000  # pipelines, above which last predictions arrive only of those that a client asks for
LAST_WAIT = 1.5  # seconds for the first of them to arrive
_KEEP_ON = 10.0  # seconds for which they arrive after they were asked for
_MAX_ASKED = 256  # pipelines, above which those of all arrive after all
_EVERYTHING = b"v1/pred/"
_LASTS = b"v1/last/"

Tap = Callable[[DataHeader, bytes], None]  # called with each prediction of a pipeline, body undecoded


@dataclass(frozen=True, slots=True)
class Last:
    """The last prediction of one source, undecoded."""

    key: Key
    body: bytes  # msgpack


class Lasts:
    """The last prediction of each source of each pipeline, within a limit of bytes."""

    def __init__(self, *, limit: int = MAX_KEPT) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, dict[int, Last]] = OrderedDict()  # the most silent pipeline first

    def keep(self, pipeline_id: str, source: int, last: Last) -> None:
        """Keep a prediction, replacing the previous one. Without room, drop the most silent pipeline."""
        sources = self._kept.setdefault(pipeline_id, {})
        self._kept.move_to_end(pipeline_id)
        if source in sources:
            self._size -= len(sources[source].body)
        sources[source] = last
        self._size += len(last.body)
        while self._size > self._limit:
            self._forget(next(iter(self._kept)))

    def find(self, pipeline_id: str, source: int | None) -> Last | None:
        """The last prediction of one source, or of all sources if `source` is None."""
        sources = self._kept.get(pipeline_id, {})
        if source is not None:
            return sources.get(source)
        return max(sources.values(), key=lambda last: last.key, default=None)

    def retain(self, pipeline_ids: Collection[str]) -> None:
        """Forget all other pipelines."""
        for pipeline_id in [each for each in self._kept if each not in pipeline_ids]:
            self._forget(pipeline_id)

    def _forget(self, pipeline_id: str) -> None:
        self._size -= sum(len(last.body) for last in self._kept.pop(pipeline_id).values())


class Predictions:
    """The subscription to the relay, the last predictions, and their subscribers."""

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
        self._hub: Hub[PredictionFilter] = Hub(subscribers)
        self._pipeline_cache = pipeline_cache
        self._lasts = Lasts()
        self._topic_refcounts = TopicRefCounts(changed=self._forget)
        self._last_topics = TopicRefCounts(changed=lambda _: None, keep_on=_KEEP_ON)
        self._all_lasts = contextlib.ExitStack()  # the topic of all last predictions, in a small fleet
        self._holds_all = False
        self._arrivals: dict[str, asyncio.Event] = {}  # pipelines whose last prediction is awaited
        self._taps: dict[str, Tap] = {}
        self._orders: dict[
            tuple[str, int | None], Order
        ] = {}  # by pipeline; of last predictions also by source
        self._budgets: dict[str, Bucket] = {}  # of pipelines that are decoded
        self._log_throttle = LogThrottle()
        self._work = Background("predictions", self._run)
        pipeline_cache.on_refresh(self._retain)

    async def start(self) -> None:
        """Connect to the relay, which need not run yet."""
        self._hold_all()
        self._work.start()

    def _hold_all(self) -> None:
        self._all_lasts.enter_context(self._last_topics.hold(_LASTS))
        self._holds_all = True

    async def close(self) -> None:
        """Unsubscribe."""
        await self._work.close()
        self._all_lasts.close()

    @contextlib.contextmanager
    def subscribe(self, chosen: PredictionFilter) -> Iterator[Subscriber]:
        """A subscriber of what was chosen, from now on. Raises: StreamRefused."""
        watched = self._pipeline_cache.watched() if chosen.selector.needs else contextlib.nullcontext()
        with contextlib.ExitStack() as stack:
            stack.enter_context(watched)
            subscriber = stack.enter_context(self._hub.subscribe(chosen, SendQueue()))
            for topic in topics_of(chosen):
                stack.enter_context(self._topic_refcounts.hold(topic))
            yield subscriber

    @contextlib.contextmanager
    def tapped(self, pipeline_id: str, tap: Tap) -> Iterator[None]:
        """Call `tap` with every prediction of a pipeline. A pipeline has at most one tap."""
        assert pipeline_id not in self._taps
        with self._topic_refcounts.hold(pipeline_topic(Kind.PRED, pipeline_id)):
            self._taps[pipeline_id] = tap
            try:
                yield
            finally:
                del self._taps[pipeline_id]

    async def last(self, pipeline_id: str, source: int | None) -> Message | None:
        """The last prediction, at most a second old; None without a readable one.

        Of a large fleet, the first answer about a pipeline waits for its device.
        """
        topics = self._last_topics
        topic = _LASTS if len(topics) >= _MAX_ASKED else pipeline_topic(Kind.LAST, pipeline_id)
        if _LASTS not in topics:
            arrives = topic in topics and pipeline_id not in self._arrivals
            with topics.hold(topic):
                if not arrives:
                    await self._arrival(pipeline_id)
        return self._last(pipeline_id, source)

    async def _arrival(self, pipeline_id: str) -> None:
        """Wait until the last prediction of a pipeline arrives, but not for long: there may be none."""
        arrival = self._arrivals.setdefault(pipeline_id, asyncio.Event())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(arrival.wait(), LAST_WAIT)
        self._arrivals.pop(pipeline_id, None)

    def _last(self, pipeline_id: str, source: int | None) -> Message | None:
        last = self._lasts.find(pipeline_id, source)
        try:
            return None if last is None else _message(last.key, _decoded(pipeline_id, last.body))
        except BadData as exc:
            logger.warning("the last prediction of %s cannot be shown: %s", pipeline_id, exc)
            return None

    async def _run(self) -> None:
        socket = sub_socket(self._context, self._endpoints, self._keys)
        with (
            socket,
            self._topic_refcounts.served_by(socket),
            self._last_topics.served_by(socket),
        ):
            async for frames in received(socket):
                try:
                    self._receive(frames, time.monotonic())
                except BadData as exc:
                    self._log_throttle.log("a prediction", exc)

    def _receive(self, frames: list[bytes], now: float) -> None:
        if frames[0].startswith(_LASTS):
            self._receive_last(frames, now)
        else:
            self._receive_prediction(frames, now)

    def _receive_last(self, frames: list[bytes], now: float) -> None:
        pipeline_id, key, body = ordered(frames)
        source = source_of(frames[1])
        if source >= MAX_SOURCES:
            raise BadData(f"a source below {MAX_SOURCES}", str(source))
        if self._order(pipeline_id, source).accept(key, now) is not None:
            self._lasts.keep(pipeline_id, source, Last(key, body))
        if (arrival := self._arrivals.get(pipeline_id)) is not None:
            arrival.set()

    def _receive_prediction(self, frames: list[bytes], now: float) -> None:
        pipeline_id, header, body = split(frames)
        if header.source >= MAX_SOURCES:
            raise BadData(f"a source below {MAX_SOURCES}", str(header.source))
        tells = bool(self._hub.groups)
        if tells and not self._budget(pipeline_id).take(max(len(body), _EACH), now):
            raise BadData(f"no more than {BUDGET.each_second:.0f} bytes a second of {pipeline_id}", "more")
        missing = self._order(pipeline_id, None).accept(header.key, now)
        if missing is None:
            return
        self._lasts.keep(pipeline_id, header.source, Last(header.key, body))
        if pipeline_id in self._taps:
            self._taps[pipeline_id](header, body)
        if tells:
            self._push(pipeline_id, header, _decoded(pipeline_id, body), missing)

    def _budget(self, pipeline_id: str) -> Bucket:
        budget = self._budgets.get(pipeline_id)
        if budget is None:
            if len(self._budgets) >= MAX_SUBJECTS:
                self._budgets.clear()
            budget = self._budgets[_checked(pipeline_id)] = Bucket(BUDGET)
        return budget

    def _order(self, pipeline_id: str, source: int | None) -> Order:
        order = self._orders.get((pipeline_id, source))
        if order is None:
            if len(self._orders) >= MAX_SUBJECTS:
                self._orders.clear()
            order = self._orders[_checked(pipeline_id), source] = Order()
        return order

    def _push(self, pipeline_id: str, header: DataHeader, document: Document, missing: int) -> None:
        labels = self._pipeline_cache.labels(pipeline_id)
        note = gap(missing, pipeline_id) if missing else None
        whole: Message | None = None
        for chosen, subscribers in self._hub.groups.items():
            if not chosen.concerns(pipeline_id, labels):
                continue
            picked = chosen.pick(document)
            messages = [] if note is None else [note]
            if picked is document:
                whole = whole or _message(header.key, document)
                messages.append(whole)
            elif picked is not None:
                messages.append(_message(header.key, picked))
            for subscriber in subscribers:
                for message in messages:
                    subscriber.push(message)

    def _forget(self, topic: bytes) -> None:
        """Forget the order of a topic: what was sent between two subscriptions is not a gap."""
        if topic == _EVERYTHING:
            self._orders.clear()
        else:
            self._orders.pop((topic.split(b"/")[2].decode("ascii"), None), None)

    def _retain(self, pipelines: Mapping[str, PipelineView]) -> None:
        self._lasts.retain(pipelines)
        if len(pipelines) > MANY:
            self._all_lasts.close()
            self._holds_all = False
        elif not self._holds_all:
            self._hold_all()


def topics_of(chosen: PredictionFilter) -> list[bytes]:
    """The topics that a filter needs."""
    return [pipeline_topic(Kind.PRED, each) for each in sorted(chosen.pipelines)] or [_EVERYTHING]


def _checked(pipeline_id: str) -> str:
    try:
        return from_plain(pipeline_id, Id)
    except msgspec.ValidationError as exc:
        raise BadData("a topic with a pipeline's id", repr(pipeline_id[:80])) from exc


def _decoded(pipeline_id: str, body: bytes) -> Document:
    """Decode a prediction of this pipeline. Raises: BadData."""
    document = decode(body)
    about = document["inference_metadata"].get("pipeline_id", pipeline_id)
    if about != pipeline_id:
        raise BadData(f"a prediction of {pipeline_id}", f"one of {about}")
    return {**document}


def _message(key: Key, document: Document) -> Message:
    return Message(kind="prediction", data=msgspec.json.encode(document), id=name_of(key))
