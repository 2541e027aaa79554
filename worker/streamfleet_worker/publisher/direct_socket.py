"""The device's own socket for subscribers on the LAN.

It limits the subscriptions of each key, as the relay does.

A peer above the limits is disconnected: otherwise libzmq would keep its subscriptions in our memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

from streamfleet_core.peers.connections import Connections
from streamfleet_core.peers.subscription_reader import Subscription, SubscriptionReader
from streamfleet_core.peers.subscriptions import Change, Subscriptions
from streamfleet_core.protocol.limits import MAX_TOPIC

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 32  # per key
MAX_SUBSCRIPTIONS = 1024  # per key, over all its connections
MAX_MESSAGE = 512  # bytes: a subscription, or the handshake with 300
_AT_ONCE = 32  # subscriptions read before the other sockets have their turn
_MUTE = 10.0  # seconds in which a new peer must subscribe
_UNREAD = 1024**2  # bytes of a key that were received without a complete message
_INTERVAL = 0.5  # seconds between two checks of the connections


class DirectSocket:
    """A bound XPUB and its connections. Only one thread may use it.

    Args:
        keep_out: called with a key that broke a rule.
        granted: called with each granted subscription and its end, as an XPUB has them.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        keep_out: Callable[[str], None],
        granted: Callable[[bytes], None],
    ) -> None:
        self.socket = socket
        self._keep_out = keep_out
        self._granted = granted
        self.connections = Connections(socket, MAX_CONNECTIONS)
        self._subscriptions = Subscriptions()
        self._reader = SubscriptionReader(socket)
        self._maintain_at = 0.0

    def read_subscriptions(self) -> None:
        """Apply waiting subscriptions, up to a limit."""
        for _ in range(_AT_ONCE):
            subscription = self._reader.read()
            if subscription is None:
                return
            if subscription.descriptor >= 0:
                self._subscribe(subscription)

    def accept_connections(self) -> None:
        """Record new connections."""
        self.connections.take_new(time.monotonic())

    def maintain(self, now: float) -> None:
        """Remove ended connections, and cut peers that were silent for too long."""
        if now < self._maintain_at:
            return
        self._maintain_at = now + _INTERVAL
        self.connections.take_new(now)
        self.connections.cut_all(lambda each: each.key is None and now - each.accepted > _MUTE)
        for key in self.connections.count(_UNREAD):
            self._cut(key, "sends a message without an end")
        for gone in self.connections.sweep():
            self._report(self._subscriptions.leave(gone.serial))

    def close(self) -> None:
        """Close the socket, and with it all connections."""
        self.connections.close()
        self.socket.close()

    def _subscribe(self, subscription: Subscription) -> None:
        key, topic, begins = subscription.key, subscription.topic, subscription.begins
        self.connections.read(key, len(topic) + 1)
        connection = self.connections.identify(
            subscription.descriptor, key, subscription.number, time.monotonic()
        )
        if connection is None:
            return
        known = self._subscriptions
        if subscription.is_foreign:
            self._cut(key, "sends messages that are not subscriptions")
            return
        if not subscription.is_safe:  # the change would apply to another peer: cut this one, it reconnects
            self.connections.cut(connection)
            return
        if begins and (len(topic) > MAX_TOPIC or self._count(key) >= MAX_SUBSCRIPTIONS):
            self._cut(key, "has too many subscriptions or too long ones")
            return
        change = (
            known.subscribe(connection.serial, topic, (topic,))
            if begins
            else known.unsubscribe(connection.serial, topic)
        )
        for each in change.granted:  # applies to the peer of the last message
            self.socket.setsockopt(zmq.SUBSCRIBE, each)
        for each in change.revoked:
            self.socket.setsockopt(zmq.UNSUBSCRIBE, each)
        self._report(change)

    def _report(self, change: Change) -> None:
        for flag, topics in ((b"\1", change.first), (b"\0", change.last)):
            for topic in topics:
                self._granted(flag + topic)

    def _cut(self, key: str, why: str) -> None:
        logger.warning("disconnected the subscriber %s, which %s", key, why)
        self._keep_out(key)
        self.connections.cut_all(lambda each: each.key == key)

    def _count(self, key: str) -> int:
        return sum(len(self._subscriptions.asked(each.serial)) for each in self.connections.of(key))
