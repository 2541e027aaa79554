"""The subscriptions of a relay's peers, and the changes to forward to the devices. Pure.

libzmq does not count: a relay that grants each subscription itself must also report upstream when the first
peer subscribes to a topic, and when the last one leaves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Change:
    """The consequences of a subscription for its peer, and for the whole relay."""

    granted: tuple[bytes, ...] = ()  # topics that the peer receives from now on
    revoked: tuple[bytes, ...] = ()  # topics that it no longer receives
    first: tuple[bytes, ...] = ()  # topics that no peer received before
    last: tuple[bytes, ...] = ()  # topics that no peer receives any longer


@dataclass(slots=True)
class _Peer:
    asked: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)  # topic → the topics granted for it
    received: Counter[bytes] = field(default_factory=Counter)  # granted topic → how many requests include it


class Subscriptions:
    """The subscriptions of all peers of one relay."""

    def __init__(self) -> None:
        self._peers: dict[Hashable, _Peer] = {}
        self._listeners: Counter[bytes] = Counter()  # topic → how many peers receive it

    def asked(self, peer: Hashable) -> dict[bytes, tuple[bytes, ...]]:
        """The topics that a peer asked for, with the topics granted for each."""
        return self._peers[peer].asked if peer in self._peers else {}

    def has_receiver(self, topic: bytes) -> bool:
        """Whether a peer receives exactly this topic."""
        return topic in self._listeners

    def __bool__(self) -> bool:
        """Whether a peer receives any topic."""
        return bool(self._listeners)

    def subscribe(self, peer: Hashable, topic: bytes, granted: tuple[bytes, ...]) -> Change:
        """Record that a peer asked for a topic, for which it is granted these."""
        known = self._peers.setdefault(peer, _Peer())
        if topic in known.asked:
            return Change()
        known.asked[topic] = granted
        new = tuple(each for each in granted if not known.received[each])
        known.received.update(granted)
        first = tuple(each for each in new if each not in self._listeners)
        self._listeners.update(new)
        return Change(granted=new, first=first)

    def unsubscribe(self, peer: Hashable, topic: bytes) -> Change:
        """Record that a peer no longer wants a topic."""
        known = self._peers.get(peer)
        if known is None or topic not in known.asked:
            return Change()
        known.received.subtract(known.asked.pop(topic))
        revoked = tuple(each for each, count in known.received.items() if not count)
        return Change(revoked=revoked, last=self._remove_listener(known, revoked))

    def leave(self, peer: Hashable) -> Change:
        """Record that a peer has disconnected."""
        known = self._peers.pop(peer, None)
        if known is None:
            return Change()
        return Change(last=self._remove_listener(known, tuple(each for each in known.received)))

    def _remove_listener(self, peer: _Peer, topics: tuple[bytes, ...]) -> tuple[bytes, ...]:
        for topic in topics:
            del peer.received[topic]
            self._listeners[topic] -= 1
        last = tuple(topic for topic in topics if not self._listeners[topic])
        for topic in last:
            del self._listeners[topic]
        return last
