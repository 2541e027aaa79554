"""A budget for each network that asks, in a bounded memory. Pure."""

from __future__ import annotations

from collections import OrderedDict

from streamfleet_core.protocol.rates import Bucket, Rate

MAX_NETWORKS = 4_096  # that are remembered; the one that asked longest ago is forgotten first


class NetworkBudgets:
    """The remaining amounts of one rate, by network."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._budgets: OrderedDict[str, Bucket] = OrderedDict()  # the last that asked at the end

    def __len__(self) -> int:
        return len(self._budgets)

    def of(self, network: str) -> Bucket:
        """The budget of a network."""
        budget = self._budgets.setdefault(network, Bucket(self._rate))
        self._budgets.move_to_end(network)
        if len(self._budgets) > MAX_NETWORKS:
            self._budgets.popitem(last=False)
        return budget
