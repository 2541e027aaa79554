"""The device's own socket for subscribers on the LAN: it counts what each key asks for, as the relay does.

Who asks for more than any honest program does is cut off, or libzmq would keep it all in our memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

from streamfleet_core.peers.connections import Connections
from streamfleet_core.peers.subscription_reader import Subscription, SubscriptionReader
from streamfleet_core.peers.subscriptions import Subscriptions
from streamfleet_core.protocol.data_plane import MAX_TOPIC

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 32  # of a key
MAX_SUBSCRIPTIONS = 1024  # of a key, over all its connections
MAX_MESSAGE = 512  # bytes: a subscription, or the 300 of the handshake
_AT_ONCE = 32  # subscriptions between two looks at other sockets
_MUTE = 10.0  # seconds that a subscriber may take to say what it wants
_UNREAD = 1024**2  # bytes of a key that have come and are no whole message
_INTERVAL = 0.5  # seconds between two looks at connections


class Direct:
    """An XPUB that is bound, and who is connected to it. One thread uses it.

    Args:
        keep_out: is told of a key that broke a rule.
    """

    def __init__(self, socket: zmq.Socket[bytes], keep_out: Callable[[str], None]) -> None:
        self.socket = socket
        self._keep_out = keep_out
        self.connections = Connections(socket, MAX_CONNECTIONS)
        self._subscriptions = Subscriptions()
        self._reader = SubscriptionReader(socket)
        self._tend_at = 0.0

    def hear(self) -> None:
        """Take what has come of who subscribes to what, so much at most."""
        for _ in range(_AT_ONCE):
            subscription = self._reader.read()
            if subscription is None:
                return
            if subscription.descriptor >= 0:
                self._subscribe(subscription)

    def meet(self) -> None:
        """Take note of who has connected."""
        self.connections.take_new(time.monotonic())

    def tend(self, now: float) -> None:
        """Forget who has gone, and cut who has been silent for too long."""
        if now < self._tend_at:
            return
        self._tend_at = now + _INTERVAL
        self.connections.take_new(now)
        self.connections.cut_all(lambda each: each.key is None and now - each.accepted > _MUTE)
        for key in self.connections.count(_UNREAD):
            self._cut(key, "sends a message without an end")
        for gone in self.connections.sweep():
            self._subscriptions.leave(gone.serial)

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
            self._cut(key, "sends what is no subscription")
            return
        if not subscription.is_safe:  # what follows would happen to another peer: this one connects again
            self.connections.cut(connection)
            return
        if begins and (len(topic) > MAX_TOPIC or self._count(key) >= MAX_SUBSCRIPTIONS):
            self._cut(key, "asks for too much")
            return
        change = (
            known.subscribe(connection.serial, topic, (topic,))
            if begins
            else known.unsubscribe(connection.serial, topic)
        )
        for each in change.granted:  # to whoever was heard last
            self.socket.setsockopt(zmq.SUBSCRIBE, each)
        for each in change.revoked:
            self.socket.setsockopt(zmq.UNSUBSCRIBE, each)

    def _cut(self, key: str, why: str) -> None:
        logger.warning("cut off the subscriber %s, which %s", key, why)
        self._keep_out(key)
        self.connections.cut_all(lambda each: each.key == key)

    def _count(self, key: str) -> int:
        return sum(len(self._subscriptions.asked(each.serial)) for each in self.connections.of(key))
