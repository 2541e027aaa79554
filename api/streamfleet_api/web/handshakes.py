"""Which TLS handshake begins next. Pure: `now` is in monotonic seconds. (S24)

    asked ──there is budget──▶ begun
      └──there is none──▶ waiting, in turns by address ──▶ begun, or too late

A handshake costs the event loop about a millisecond, whichever client makes it. Each address has a budget;
those from which no request was admitted yet share another.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from streamfleet_api.web.access_policy import Address, network_of
from streamfleet_api.web.network_budgets import MAX_NETWORKS, NetworkBudgets
from streamfleet_core.protocol.rates import Bucket, Rate

EACH = Rate(50, 100)  # handshakes of one address, of IPv6 of one /64
STRANGERS = Rate(100, 200)  # of all addresses together from which no request was admitted
QUEUE = 250  # handshakes of one address that wait: as many as begin in five seconds

T = TypeVar("T")


class KnownNetworks:
    """The networks whose requests were admitted. Only others of these push one out."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()  # the last admitted at the end

    def admitted(self, address: Address | None) -> None:
        """A request from there had the token, or a ticket."""
        network = network_of(address)
        self._known[network] = None
        self._known.move_to_end(network)
        if len(self._known) > MAX_NETWORKS:
            self._known.popitem(last=False)

    def __contains__(self, network: str) -> bool:
        return network in self._known


class Handshakes(Generic[T]):
    """The handshakes that wait for their turn, each known by a value of the caller's."""

    def __init__(
        self, known: KnownNetworks, *, each: Rate = EACH, strangers: Rate = STRANGERS, queue: int = QUEUE
    ) -> None:
        self._known = known
        self._total = Bucket(strangers)
        self._queue = queue
        self._budgets = NetworkBudgets(each)
        # By network; the first has its turn next. No queue is empty.
        self._waiting_known: OrderedDict[str, deque[T]] = OrderedDict()
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def ask(self, network: str, handshake: T) -> bool:
        """Queue a handshake, until `begin` returns it. False: too many of its network wait."""
        waiting = self._waiting_known if network in self._known else self._waiting
        queue = waiting.setdefault(network, deque())
        if len(queue) >= self._queue:
            return False
        queue.append(handshake)
        return True

    def leave(self, network: str, handshake: T) -> None:
        """Forget a handshake if it still waits."""
        for waiting in (self._waiting_known, self._waiting):
            queue = waiting.get(network)
            if queue is not None and handshake in queue:
                queue.remove(handshake)
                _drop_if_empty(waiting, network)

    def begin(self, now: float) -> list[T]:
        """The handshakes that may begin now."""
        return self._begin(self._waiting_known, None, now) + self._begin(self._waiting, self._total, now)

    @property
    def are_waiting(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting_known or self._waiting)

    def check(self) -> None:
        """Assert the invariants."""
        for waiting in (self._waiting_known, self._waiting):
            assert all(0 < len(queue) <= self._queue for queue in waiting.values())
        assert len(self._budgets) <= MAX_NETWORKS

    def _begin(self, waiting: OrderedDict[str, deque[T]], total: Bucket | None, now: float) -> list[T]:
        found: list[T] = []
        without_budget = 0  # networks in a row
        while without_budget < len(waiting) and (total is None or total.has(1, now)):
            network, queue = next(iter(waiting.items()))
            waiting.move_to_end(network)
            if not self._budgets.of(network).take(1, now):
                without_budget += 1
                continue
            without_budget = 0
            if total is not None:
                total.take(1, now)
            found.append(queue.popleft())
            _drop_if_empty(waiting, network)
        return found


def _drop_if_empty(waiting: OrderedDict[str, deque[T]], network: str) -> None:
    if not waiting[network]:
        del waiting[network]
