"""The topics that one SUB socket subscribes to: those that somebody follows, for as long as somebody does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

import zmq.asyncio


class Topics:
    """Counts the followers of each topic. One event loop uses it."""

    def __init__(self, *, changed: Callable[[bytes], None], keep_on: float = 0.0) -> None:
        """A subscription ends so many seconds after its last follower left. `changed` hears of each that
        begins or ends: what was known of its messages is of another time."""
        self._changed = changed
        self._keep_on = keep_on
        self._followers: Counter[bytes] = Counter()
        self._endings: dict[bytes, asyncio.TimerHandle] = {}  # of subscriptions that nobody needs
        self._socket: zmq.asyncio.Socket | None = None

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._followers

    @property
    def followers(self) -> int:
        """Of all topics together."""
        return self._followers.total()

    @contextlib.contextmanager
    def served_by(self, socket: zmq.asyncio.Socket) -> Iterator[None]:
        """Subscribe with this socket, to what is followed already too."""
        self._socket = socket
        for topic in self._followers:
            socket.subscribe(topic)
        try:
            yield
        finally:
            self._socket = None

    @contextlib.contextmanager
    def followed(self, topic: bytes) -> Iterator[None]:
        """Somebody follows this topic."""
        ending = self._endings.pop(topic, None)
        if ending is not None:
            ending.cancel()
        elif not self._followers[topic]:
            self._changed(topic)
            if self._socket is not None:
                self._socket.subscribe(topic)
        self._followers[topic] += 1
        try:
            yield
        finally:
            self._followers[topic] -= 1
            if not self._followers[topic]:
                later = asyncio.get_running_loop().call_later
                self._endings[topic] = later(self._keep_on, self._end, topic)

    def _end(self, topic: bytes) -> None:
        del self._endings[topic], self._followers[topic]
        self._changed(topic)
        if self._socket is not None:
            self._socket.unsubscribe(topic)
