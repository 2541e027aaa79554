"""Reads the subscriptions of peers from an XPUB whose owner grants each one itself (XPUB_MANUAL).

`SUBSCRIBE` and `UNSUBSCRIBE` act on the peer whose subscription was read last. libzmq keeps these peers in a
separate queue. A message of a peer that is not a subscription is not in that queue, but reading it removes a
peer from the queue: from then on the two queues are out of step, until both are empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import zmq

from streamfleet_core.peers.connections import descriptor_of, number_of

_BEGINS, _ENDS = 1, 0  # the first byte of a message from an XPUB


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A peer subscribes to a topic, or unsubscribes."""

    descriptor: int  # of its connection; below 0: it has ended, and libzmq made the message
    key: str  # "" on a socket without keys
    number: int  # of its connection, for `Connections.identify`
    begins: bool
    topic: bytes
    is_foreign: bool  # not a subscription, but another message of the peer
    is_safe: bool  # `SUBSCRIBE` and `UNSUBSCRIBE` act on this peer now


class SubscriptionReader:
    """Reads one XPUB. Only one thread may use it."""

    def __init__(self, socket: zmq.Socket[bytes], *, has_keys: bool = True) -> None:
        self._socket = socket
        self._has_keys = has_keys
        self._in_step = True

    def read(self) -> Subscription | None:
        """Read the next subscription; None if none is waiting."""
        try:
            frame: zmq.Frame = self._socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._in_step = True  # both queues are empty
            return None
        content = frame.bytes
        flag = content[0] if content else None
        is_foreign = flag not in (_BEGINS, _ENDS)
        self._in_step &= not is_foreign
        descriptor = descriptor_of(frame)
        key = str(frame.get("User-Id")) if self._has_keys and descriptor >= 0 else ""
        return Subscription(
            descriptor=descriptor,
            key=key,
            number=number_of(frame) if key else 0,
            begins=flag == _BEGINS,
            topic=content[1:],
            is_foreign=is_foreign,
            is_safe=self._in_step,
        )
