"""Limits the connections, and chooses which to close for new ones. Pure.

A connection is idle until the head of a request is received, and again after its response. When an address
or all addresses reach their limit, the connection idle for longest is closed for a new one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from streamfleet_api.web.access_policy import Address, network_of

MOST = 4_096  # connections of one process
BACKLOG = 2_048  # connections that wait in the kernel
_SHARE = 0.7  # of the file descriptors, that connections may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the number of connections, and timeouts of slow ones."""

    total: int = MOST
    each: int = MOST // 2  # of one address, of IPv6 of one /64
    is_tight: bool = False  # whether those that wait in the kernel are too many to be accepted all at once
    head: float = 10.0  # for the head of a request, the handshake of TLS before it
    body: float = 30.0  # for the next piece of its body
    piece: int = 4_096  # bytes

    @classmethod
    def of(cls, descriptors: int) -> Limits:
        """The limits of a process with this number of file descriptors."""
        total = max(min(MOST, int(descriptors * _SHARE)), 2)
        return cls(total=total, each=total // 2, is_tight=total + BACKLOG > descriptors)


class Slot:
    """The place of one connection."""

    __slots__ = ("_connections", "drop", "is_open", "network")

    def __init__(self, connections: Connections, network: str, drop: Callable[[], None]) -> None:
        self._connections = connections
        self.network = network
        self.drop = drop  # closes the connection
        self.is_open = True

    def busy(self) -> None:
        """Mark that the head of a request was received: the connection is no longer dropped to make room."""
        self._connections.idle.pop(self, None)

    def idle(self) -> None:
        """Mark that its response was sent: of all idle ones it is closed last."""
        if self.is_open:
            self._connections.idle[self] = None

    def close(self) -> None:
        """Free the place of a closed connection. Calling it again has no effect."""
        self._connections.close(self)


class Connections:
    """The connections of one process, by address."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.idle: OrderedDict[Slot, None] = OrderedDict()  # the longest idle first
        self.without_room = 0  # connections refused for lack of room
        self.count = 0  # of open ones
        self._counts: Counter[str] = Counter()  # by network

    def open(self, address: Address | None, drop: Callable[[], None]) -> Slot:
        """Return a place for a new connection, for which an idle one may be dropped. Not open: no room."""
        slot = Slot(self, network_of(address), drop)
        slot.is_open = self._has_room(slot.network)
        if slot.is_open:
            self.count += 1
            self._counts[slot.network] += 1
            slot.idle()
        return slot

    def close(self, slot: Slot) -> None:
        """Remove a closed connection."""
        if slot.is_open:
            slot.busy()
            slot.is_open = False
            self.count -= 1
            self._counts[slot.network] -= 1
            if not self._counts[slot.network]:
                del self._counts[slot.network]

    def _has_room(self, network: str) -> bool:
        if self._counts[network] >= self.limits.each and not self._make_room(network):
            return False
        return self.count < self.limits.total or self._make_room(None)

    def _make_room(self, network: str | None) -> bool:
        """By the longest idle one of a network, or of all."""
        self.without_room += 1
        oldest = next((slot for slot in self.idle if network in (None, slot.network)), None)
        if oldest is None:
            return False
        self.close(oldest)
        oldest.drop()
        return True
