"""Limits requests without the token, per address. Pure: `now` is in monotonic seconds. (S24)"""

from __future__ import annotations

from collections import OrderedDict

from streamfleet_api.web.access import Address, network_of
from streamfleet_api.web.handshakes import KnownNetworks
from streamfleet_core.protocol.rates import Bucket, Rate

EACH = Rate(50, 200)  # requests of one address, of IPv6 of one /64; a dashboard that loads sends some twenty
MAX_ADDRESSES = 4_096  # that are remembered; the least recently active is forgotten first


class RequestBudget:
    """The requests that were not authorised: open routes, and those that are refused.

    Networks from which a request was admitted have no limit: a mistyped token is not an attack.
    """

    def __init__(self, known: KnownNetworks, rate: Rate = EACH) -> None:
        self._known = known
        self._rate = rate
        self._budgets: OrderedDict[str, Bucket] = OrderedDict()  # by network; the last that asked at the end

    def take(self, address: Address | None, now: float) -> bool:
        """Whether another request of this address is answered."""
        network = network_of(address)
        if network in self._known:
            return True
        budget = self._budgets.setdefault(network, Bucket(self._rate))
        self._budgets.move_to_end(network)
        if len(self._budgets) > MAX_ADDRESSES:
            self._budgets.popitem(last=False)
        return budget.take(1, now)
