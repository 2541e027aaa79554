"""Events of pipelines and devices: one long poll of the broker, shared by all subscribers.

Recent events are kept, so that a subscriber that reconnects gets what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from streamfleet_api.broker_client import BrokerClient, BrokerClientError, BrokerUnreachable
from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.filters import Document, Mark
from streamfleet_api.feeds.pipeline_cache import PipelineCache
from streamfleet_api.feeds.send_queue import Message, SendQueue, gap
from streamfleet_api.feeds.subscribers import Hub, Subscriber, SubscriberRegistry
from streamfleet_api.web.json_codec import render
from streamfleet_core.protocol.requests import Events, GetEvents
from streamfleet_core.protocol.values import to_plain

logger = logging.getLogger(__name__)

MAX_KEPT = 2_000  # events
_WAIT_MS = 3_000  # for which the broker waits for an event
_TIMEOUT = 4.0  # seconds after which the broker counts as unreachable
_PAUSE = 1.0  # seconds between two attempts
_BREATH = 0.1  # seconds after a reply without events: a broker that does not wait must not make us spin
_START = Mark(0, 0)


@dataclass(frozen=True, slots=True)
class _Entry:
    mark: Mark
    message: Message
    event: Document | None  # None: a gap


class Ring:
    """The last events in order, with a note where some are missing. Pure."""

    def __init__(self, *, limit: int = MAX_KEPT) -> None:
        self._entries: deque[_Entry] = deque(maxlen=limit)
        self.last = _START

    def add(self, received: Events) -> list[Message]:
        """Add events, and return the messages for subscribers."""
        if received.epoch < self.last.epoch:  # a new broker with an empty store
            self._entries.clear()
            self.last = _START
        events = [event for event in received.events if Mark(received.epoch, event.n) > self.last]
        news: list[_Entry] = []
        mark = Mark(received.epoch, events[0].n if events else 0)
        if received.lost and _START < self.last < mark:
            news.append(_Entry(mark, gap(_between(self.last, mark)), None))
        for event in events:
            mark = Mark(received.epoch, event.n)
            document = {"epoch": received.epoch, **to_plain(event)}
            news.append(_Entry(mark, Message(kind="event", data=render(document), id=str(mark)), document))
        self._entries.extend(news)
        if received.events:
            self.last = Mark(received.epoch, received.events[-1].n)
        elif received.epoch > self.last.epoch:
            self.last = Mark(received.epoch, 0)
        return [entry.message for entry in news]

    def after(self, mark: Mark) -> list[Message]:
        """The messages after a mark, with a gap first if some are missing; 0-0 means all."""
        later = [entry for entry in self._entries if entry.mark > mark]
        missing: list[Message] = []
        if mark != _START and later and later[0] is self._entries[0] and later[0].mark != mark.next:
            missing = [gap(_between(mark, later[0].mark))]
        return [*missing, *(entry.message for entry in later)]

    def recent(self, limit: int) -> list[Document]:
        """The last events, oldest first."""
        events = [entry.event for entry in self._entries if entry.event is not None]
        return events[-limit:]


def _between(earlier: Mark, later: Mark) -> int | None:
    """The number of events between two marks; None across epochs, as it is unknown."""
    return later.n - earlier.n - 1 if earlier.epoch == later.epoch else None


class EventFeed:
    """The poll of the broker, the recent events, and their subscribers."""

    def __init__(
        self, broker: BrokerClient, subscribers: SubscriberRegistry, pipeline_cache: PipelineCache
    ) -> None:
        self._broker = broker
        # By the mark of a subscriber from before the broker's first reply; None: all others.
        self._hub: Hub[Mark | None] = Hub(subscribers)
        self._pipeline_cache = pipeline_cache
        self._ring = Ring()
        self._has_heard = False  # a reply of the broker
        self._work = Background("events", self._run)

    async def start(self) -> None:
        """Start polling."""
        self._work.start()

    async def close(self) -> None:
        """Stop polling."""
        await self._work.close()

    @contextlib.contextmanager
    def subscribe(self, after: Mark | None) -> Iterator[Subscriber]:
        """A subscriber to the events after a mark, or to new ones. Raises: StreamRefused."""
        waits = None if self._has_heard else after
        with self._hub.subscribe(waits, SendQueue(max_messages=MAX_KEPT + 256)) as subscriber:
            for message in [] if after is None else self._ring.after(after):
                subscriber.push(message)
            yield subscriber

    def recent(self, limit: int) -> tuple[list[Document], Mark]:
        """The last events, oldest first, and the mark to continue from."""
        return self._ring.recent(limit), self._ring.last

    async def _run(self) -> None:
        heard = time.monotonic()
        while True:
            asked = self._ring.last
            question = GetEvents(asked.epoch, asked.n, _WAIT_MS)
            try:
                received = await self._broker.ask(question, Events, timeout=_TIMEOUT)
            except BrokerClientError as exc:
                silent = time.monotonic() - heard
                level = logging.DEBUG if isinstance(exc, BrokerUnreachable) else logging.WARNING
                logger.log(level, "no events from the broker for %.0f s: %s", silent, exc)
                self._hub.push(
                    Message(kind="silence", data=render({"seconds": round(silent, 1)}), subject="silence")
                )
                await asyncio.sleep(_PAUSE)
                continue
            heard = time.monotonic()
            news = self._ring.add(received)
            self._push(news)
            self._pipeline_cache.apply_events(received.events)
            if not news:
                await asyncio.sleep(_BREATH)

    def _push(self, news: list[Message]) -> None:
        """The first reply has old events too: a subscriber with a mark gets those after it."""
        for mark, subscribers in self._hub.groups.items():
            messages = news if mark is None or self._has_heard else self._ring.after(mark)
            for subscriber in subscribers:
                for message in messages:
                    subscriber.push(message)
        self._has_heard = True
