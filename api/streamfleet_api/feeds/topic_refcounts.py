"""The topics of one SUB socket: each is subscribed as long as it has subscribers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

import zmq.asyncio


class TopicRefCounts:
    """Counts the subscribers of each topic. One event loop uses it."""

    def __init__(self, *, changed: Callable[[bytes], None], keep_on: float = 0.0) -> None:
        """A subscription ends `keep_on` seconds after its last subscriber left. `changed` is called for each
        that starts or ends, so that state of its messages can be dropped."""
        self._changed = changed
        self._keep_on = keep_on
        self._subscribers: Counter[bytes] = Counter()
        self._endings: dict[bytes, asyncio.TimerHandle] = {}  # of subscriptions without subscribers
        self._socket: zmq.asyncio.Socket | None = None

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._subscribers

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def subscribers(self) -> int:
        """The number of subscribers of all topics."""
        return self._subscribers.total()

    @contextlib.contextmanager
    def served_by(self, socket: zmq.asyncio.Socket) -> Iterator[None]:
        """Use this socket, and subscribe it to all current topics."""
        self._socket = socket
        for topic in self._subscribers:
            socket.subscribe(topic)
        try:
            yield
        finally:
            self._socket = None

    @contextlib.contextmanager
    def hold(self, topic: bytes) -> Iterator[None]:
        """Subscribe to a topic until the block ends."""
        ending = self._endings.pop(topic, None)
        if ending is not None:
            ending.cancel()
        elif not self._subscribers[topic]:
            self._changed(topic)
            if self._socket is not None:
                self._socket.subscribe(topic)
        self._subscribers[topic] += 1
        try:
            yield
        finally:
            self._subscribers[topic] -= 1
            if not self._subscribers[topic]:
                later = asyncio.get_running_loop().call_later
                self._endings[topic] = later(self._keep_on, self._end, topic)

    def _end(self, topic: bytes) -> None:
        del self._endings[topic], self._subscribers[topic]
        self._changed(topic)
        if self._socket is not None:
            self._socket.unsubscribe(topic)
