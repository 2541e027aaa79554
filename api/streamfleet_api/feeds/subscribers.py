"""The subscribers of all streams: their maximum number, their queues, and the detection of stuck ones.

A feed pushes into the queues and never waits. Each subscriber has a task that writes its queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.send_queue import Message, SendQueue

logger = logging.getLogger(__name__)

MAX_SUBSCRIBERS = 500
PING = 5.0  # seconds of silence after which a keep-alive is due
_SWEEP = 1.0  # seconds between two sweeps, or less for a shorter limit

F = TypeVar("F", bound=Hashable)


class StreamRefused(Exception):
    """A stream cannot begin now."""


class TooManySubscribers(StreamRefused):
    """The limit of subscribers is reached. Each costs memory."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__(f"{limit} {what} are open already: close one")


class Stopping(StreamRefused):
    """The api stops. A client whose stream has ended may be back before the port is closed."""

    def __init__(self) -> None:
        super().__init__("the api stops")


class Subscriber:
    """One client: its queue, and the progress of writing it."""

    def __init__(self, queue: SendQueue) -> None:
        self.queue = queue
        self.ended = False  # the queue is still written, then the stream ends
        self.ping_due = False
        self._ready = asyncio.Event()
        self._taken = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()  # start of the current write, or end of the last one
        self._writing = False
        self._task: asyncio.Task[None] | None = None

    def push(self, message: Message) -> None:
        """Add a message to the queue."""
        self.queue.push(message)
        self._ready.set()

    def end(self) -> None:
        """End the stream once the queue is written."""
        self.ended = True
        self._ready.set()

    def take(self) -> list[Message]:
        """Take the next messages of the queue."""
        self._taken.set()
        return self.queue.take()

    async def until_shorter_than(self, count: int) -> None:
        """Wait until fewer messages are in the queue: for who may push no more than the client reads."""
        while len(self.queue) >= count:
            self._taken.clear()
            await self._taken.wait()

    async def wait(self) -> None:
        """Wait until a message is queued, a keep-alive is due, or the stream ends."""
        await self._ready.wait()
        self._ready.clear()

    async def write(self, sending: Awaitable[None]) -> None:
        """Await a write, and let `sweep` measure its duration."""
        self._since, self._writing = self._clock(), True
        await sending
        self._since, self._writing = self._clock(), False

    @contextlib.contextmanager
    def written_by(self, task: asyncio.Task[None]) -> Iterator[None]:
        """Set the task to cancel when this subscriber is stuck."""
        self._task = task
        try:
            yield
        finally:
            self._task = None

    def sweep(self, stuck: float) -> None:
        """Disconnect it after being stuck for `stuck` seconds; wake it when a keep-alive is due."""
        waited = self._clock() - self._since
        if self._writing and waited > stuck and self._task is not None:
            logger.warning("a client of a stream read nothing for %.0f s: disconnected", waited)
            self._task.cancel()
        elif not self._writing and waited > PING:
            self.ping_due = True
            self._ready.set()


class SubscriberRegistry:
    """The subscribers of all streams."""

    def __init__(self, *, limit: int = MAX_SUBSCRIBERS, stuck: float) -> None:
        self.ended = False
        self._limit = limit
        self._stuck = stuck
        self._subscribers: set[Subscriber] = set()
        self._work = Background("subscribers", self._sweep)

    def __len__(self) -> int:
        return len(self._subscribers)

    async def start(self) -> None:
        """Start sweeping."""
        self._work.start()

    async def close(self) -> None:
        """End all streams."""
        self.end()
        await self._work.close()

    def end(self) -> None:
        """End every stream once its queue is written."""
        self.ended = True
        for subscriber in self._subscribers:
            subscriber.end()

    @contextlib.contextmanager
    def admit(self, queue: SendQueue) -> Iterator[Subscriber]:
        """Add a subscriber. Raises: TooManySubscribers, Stopping."""
        if self.ended:
            raise Stopping
        if len(self._subscribers) >= self._limit:
            raise TooManySubscribers(self._limit, "streams")
        subscriber = Subscriber(queue)
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP, self._stuck / 4))
            for subscriber in self._subscribers:
                subscriber.sweep(self._stuck)


class Hub(Generic[F]):
    """The subscribers of one feed, grouped by filter, so that each filter is evaluated once per message."""

    def __init__(self, subscribers: SubscriberRegistry) -> None:
        self._registry = subscribers
        self._groups: dict[F, set[Subscriber]] = {}

    @property
    def groups(self) -> Mapping[F, set[Subscriber]]:
        """The subscribers of each filter; no group is empty."""
        return self._groups

    @contextlib.contextmanager
    def subscribe(self, chosen: F, queue: SendQueue) -> Iterator[Subscriber]:
        """Add a subscriber with a filter. Raises: StreamRefused."""
        with self._registry.admit(queue) as subscriber:
            group = self._groups.setdefault(chosen, set())
            group.add(subscriber)
            try:
                yield subscriber
            finally:
                group.discard(subscriber)
                if not group:
                    del self._groups[chosen]

    def push(self, message: Message) -> None:
        """Push a message to all subscribers, whatever their filter."""
        for group in self._groups.values():
            for subscriber in group:
                subscriber.push(message)
