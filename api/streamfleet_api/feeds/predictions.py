"""The predictions of the fleet: one socket for all subscribers, subscribed to no more than they need.

The last prediction of each source arrives once a second, with or without subscribers, and is kept.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import zmq.asyncio

from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.filters import Document, PredictionFilter
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.send_queue import Message, SendQueue, gap
from streamfleet_api.feeds.subscribers import Hub, Subscriber, SubscriberRegistry
from streamfleet_api.feeds.topic_refcounts import TopicRefCounts
from streamfleet_api.feeds.zmq_subscription import Key, LogThrottle, Order, name_of, received, sub_socket
from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic, split
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
        endpoint: str,
        keys: CurveKeys | None,
        subscribers: SubscriberRegistry,
        pipeline_cache: PipelineCache,
    ) -> None:
        self._context = context
        self._endpoint = endpoint
        self._keys = keys
        self._hub: Hub[PredictionFilter] = Hub(subscribers)
        self._pipeline_cache = pipeline_cache
        self._lasts = Lasts()
        self._topic_refcounts = TopicRefCounts(changed=self._forget)
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
        self._work.start()

    async def close(self) -> None:
        """Unsubscribe."""
        await self._work.close()

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

    def last(self, pipeline_id: str, source: int | None) -> Message | None:
        """The last prediction, at most a second old; None without a readable one."""
        last = self._lasts.find(pipeline_id, source)
        try:
            return None if last is None else _message(last.key, _decoded(pipeline_id, last.body))
        except BadData as exc:
            logger.warning("the last prediction of %s cannot be shown: %s", pipeline_id, exc)
            return None

    async def _run(self) -> None:
        socket = sub_socket(self._context, self._endpoint, self._keys)
        with socket, self._topic_refcounts.served_by(socket):
            socket.subscribe(_LASTS)
            async for frames in received(socket):
                try:
                    self._receive(frames, time.monotonic())
                except BadData as exc:
                    self._log_throttle.log("a prediction", exc)

    def _receive(self, frames: list[bytes], now: float) -> None:
        pipeline_id, header, body = split(frames)
        if header.source >= MAX_SOURCES:
            raise BadData(f"a source below {MAX_SOURCES}", str(header.source))
        is_prediction = header.kind is Kind.PRED
        tells = is_prediction and bool(self._hub.groups)
        if tells and not self._budget(pipeline_id).take(max(len(body), _EACH), now):
            raise BadData(f"no more than {BUDGET.each_second:.0f} bytes a second of {pipeline_id}", "more")
        missing = self._order(pipeline_id, None if is_prediction else header.source).accept(header.key, now)
        if missing is None:
            return
        self._lasts.keep(pipeline_id, header.source, Last(header.key, body))
        if is_prediction and pipeline_id in self._taps:
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
