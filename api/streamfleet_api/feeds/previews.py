"""The previews of the fleet, subscribed to only while there are viewers: otherwise cameras render none.

Only the newest preview is kept: a slow client gets fewer previews, not late ones.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import zmq.asyncio

from streamfleet_api.broker_client import Endpoints
from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.filters import PreviewFilter
from streamfleet_api.feeds.send_queue import Message, SendQueue
from streamfleet_api.feeds.subscribers import Hub, Subscriber, SubscriberRegistry, TooManySubscribers
from streamfleet_api.feeds.topic_refcounts import TopicRefCounts
from streamfleet_api.feeds.zmq_subscription import LogThrottle, Order, name_of, received, sub_socket
from streamfleet_core.protocol.data_plane import Kind, pipeline_topic, split
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_SOURCES
from streamfleet_core.runtime.curve import CurveKeys

MAX_LOOKING = 64  # clients: each may need some megabits per second
KEEP_ON = 3.0  # seconds for which the camera keeps rendering after the last client left
FRESH = 3.0  # seconds for which a preview is sent to new subscribers
_WAITING = 4  # previews in the queue of the socket


class Previews:
    """The subscription to the relay of previews, limited to what subscribers need."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoints: Endpoints,
        keys: CurveKeys | None,
        subscribers: SubscriberRegistry,
    ) -> None:
        self._context = context
        self._endpoints = endpoints
        self._keys = keys
        self._hub: Hub[PreviewFilter] = Hub(subscribers)
        self._topic_refcounts = TopicRefCounts(changed=self._forget, keep_on=KEEP_ON)
        self._orders: dict[PreviewFilter, Order] = {}
        self._newest: dict[PreviewFilter, tuple[Message, float]] = {}  # and when it was received
        self._log_throttle = LogThrottle()
        self._work = Background("previews", self._run)

    async def start(self) -> None:
        """Connect to the relay, which need not run yet."""
        self._work.start()

    async def close(self) -> None:
        """Disconnect."""
        await self._work.close()

    @contextlib.contextmanager
    def subscribe(self, chosen: PreviewFilter) -> Iterator[Subscriber]:
        """A subscriber to the previews of one source; it gets the newest one first.

        Raises: StreamRefused.
        """
        if self._topic_refcounts.subscribers >= MAX_LOOKING:
            raise TooManySubscribers(MAX_LOOKING, "streams of pictures")
        topic = pipeline_topic(Kind.IMG, chosen.pipeline_id)
        with self._hub.subscribe(chosen, SendQueue()) as subscriber, self._topic_refcounts.hold(topic):
            preview, received_at = self._newest.get(chosen, (None, 0.0))
            if preview is not None and time.monotonic() - received_at < FRESH:
                subscriber.push(preview)
            yield subscriber

    def _forget(self, topic: bytes) -> None:
        """Forget the order and the previews of a topic that gets its first or loses its last subscriber."""
        for chosen in [each for each in self._orders if pipeline_topic(Kind.IMG, each.pipeline_id) == topic]:
            del self._orders[chosen]
            self._newest.pop(chosen, None)

    async def _run(self) -> None:
        socket = sub_socket(self._context, self._endpoints, self._keys, waiting=_WAITING)
        with socket, self._topic_refcounts.served_by(socket):
            async for frames in received(socket):
                try:
                    self._receive(frames, time.monotonic())
                except BadData as exc:
                    self._log_throttle.log("a preview", exc)

    def _receive(self, frames: list[bytes], now: float) -> None:
        pipeline_id, header, jpeg = split(frames)
        if frames[0] not in self._topic_refcounts:
            return  # it was in transit when the last subscriber left
        if header.source >= MAX_SOURCES:
            raise BadData(f"a source below {MAX_SOURCES}", str(header.source))
        chosen = PreviewFilter(pipeline_id, header.source)
        if self._orders.setdefault(chosen, Order()).accept(header.key, now) is None:
            return
        preview = Message(kind="preview", data=jpeg, id=name_of(header.key), subject="preview")
        self._newest[chosen] = (preview, now)
        for subscriber in self._hub.groups.get(chosen, ()):
            subscriber.push(preview)
