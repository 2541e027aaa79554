"""Bounds the bytes of large messages that wait for slow peers: libzmq bounds only the number of messages."""

from __future__ import annotations

from collections import Counter

import zmq

from streamfleet_core.protocol.limits import MAX_DATA_FRAME


class UnsentMessages:
    """The large messages of one relay that libzmq still holds for some peer.

    Args:
        most: limit for all messages (bytes).
        most_of_one: limit for the messages of one key (bytes).
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._held: list[tuple[zmq.MessageTracker, str, int]] = []
        self._size = 0
        self._sizes: Counter[str] = Counter()  # by key

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another message of any key."""
        return self._size + MAX_DATA_FRAME > self._most

    def hold(self, key: str, body: zmq.Frame) -> zmq.Frame | None:
        """Return the same bytes to send, counted until the last peer has them; None if too many wait."""
        if not self._has_room(key, len(body)):
            self._forget()
        if not self._has_room(key, len(body)):
            return None
        held = zmq.Frame(body.bytes, track=True, copy=False)
        assert held.tracker is not None
        self._held.append((held.tracker, key, len(body)))
        self._count(key, len(body))
        return held

    def _has_room(self, key: str, size: int) -> bool:
        return self._size + size <= self._most and self._sizes[key] + size <= self._most_of_one

    def _forget(self) -> None:
        """Drop messages that all peers have received."""
        self._held = [each for each in self._held if not each[0].done]
        self._size = 0
        self._sizes.clear()
        for _, key, size in self._held:
            self._count(key, size)

    def _count(self, key: str, size: int) -> None:
        self._size += size
        self._sizes[key] += size
