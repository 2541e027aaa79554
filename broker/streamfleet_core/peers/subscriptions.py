"""What the peers of a relay are subscribed to, and what of it the devices are told. Pure.

libzmq keeps no count: a relay that grants each subscription by itself also has to tell upstream of the first
peer that hears a topic, and of the last that does no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Change:
    """What follows for one peer, and for all."""

    granted: tuple[bytes, ...] = ()  # topics that the peer hears from now on
    revoked: tuple[bytes, ...] = ()  # that it hears no longer
    first: tuple[bytes, ...] = ()  # topics that nobody heard before
    last: tuple[bytes, ...] = ()  # that nobody hears any longer


@dataclass(slots=True)
class _Peer:
    asked: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)  # topic → what it was granted of it
    heard: Counter[bytes] = field(default_factory=Counter)  # topic → by how many of these


class Subscriptions:
    """Of all peers of one relay."""

    def __init__(self) -> None:
        self._peers: dict[Hashable, _Peer] = {}
        self._listeners: Counter[bytes] = Counter()  # topic → how many peers hear it

    def asked(self, peer: Hashable) -> dict[bytes, tuple[bytes, ...]]:
        """The topics that a peer has asked for, with what it was granted of each."""
        return self._peers[peer].asked if peer in self._peers else {}

    def hears(self, topic: bytes) -> bool:
        """Does anybody hear exactly this?"""
        return topic in self._listeners

    def __bool__(self) -> bool:
        """Does anybody hear anything?"""
        return bool(self._listeners)

    def subscribe(self, peer: Hashable, topic: bytes, granted: tuple[bytes, ...]) -> Change:
        """A peer has asked for a topic, and may hear these."""
        known = self._peers.setdefault(peer, _Peer())
        if topic in known.asked:
            return Change()
        known.asked[topic] = granted
        new = tuple(each for each in granted if not known.heard[each])
        known.heard.update(granted)
        first = tuple(each for each in new if each not in self._listeners)
        self._listeners.update(new)
        return Change(granted=new, first=first)

    def unsubscribe(self, peer: Hashable, topic: bytes) -> Change:
        """A peer wants a topic no longer."""
        known = self._peers.get(peer)
        if known is None or topic not in known.asked:
            return Change()
        known.heard.subtract(known.asked.pop(topic))
        revoked = tuple(each for each, count in known.heard.items() if not count)
        return Change(revoked=revoked, last=self._silence(known, revoked))

    def leave(self, peer: Hashable) -> Change:
        """A peer is gone."""
        known = self._peers.pop(peer, None)
        if known is None:
            return Change()
        return Change(last=self._silence(known, tuple(each for each in known.heard)))

    def _silence(self, peer: _Peer, topics: tuple[bytes, ...]) -> tuple[bytes, ...]:
        for topic in topics:
            del peer.heard[topic]
            self._listeners[topic] -= 1
        last = tuple(topic for topic in topics if not self._listeners[topic])
        for topic in last:
            del self._listeners[topic]
        return last
