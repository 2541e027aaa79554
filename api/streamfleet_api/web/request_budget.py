"""Limits requests without the token, per address. Pure: `now` is in monotonic seconds. (S24)"""

from __future__ import annotations

from streamfleet_api.web.access_policy import Address, network_of
from streamfleet_api.web.handshakes import KnownNetworks
from streamfleet_api.web.network_budgets import NetworkBudgets
from streamfleet_core.protocol.rates import Rate

EACH = Rate(50, 200)  # requests of one address, of IPv6 of one /64; a dashboard that loads sends some twenty


class RequestBudget:
    """The requests that were not authorised: open routes, and those that are refused.

    Networks from which a request was admitted have no limit: a mistyped token is not an attack.
    """

    def __init__(self, known: KnownNetworks, rate: Rate = EACH) -> None:
        self._known = known
        self._budgets = NetworkBudgets(rate)

    def take(self, address: Address | None, now: float) -> bool:
        """Whether another request of this address is answered."""
        network = network_of(address)
        return network in self._known or self._budgets.of(network).take(1, now)
