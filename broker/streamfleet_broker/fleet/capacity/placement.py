"""Chooses among the devices that may run a pipeline. Pure and deterministic.

`scheduler` finds these devices, and decides when a pipeline moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from streamfleet_broker.fleet.capacity.amounts import NOTHING, ONE_ENGINE, Amounts
from streamfleet_broker.fleet.capacity.demand import Demand, Host
from streamfleet_core.protocol.costs import DeviceLoad
from streamfleet_core.protocol.values import Labels


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that can run pipelines: what it has, and what those that it has need."""

    device: str
    capacity: int  # pipelines that it can run, as far as their costs are unknown
    assigned: int = 0  # pipelines assigned to it that have not ended or failed
    used: Amounts = NOTHING
    supply: Amounts = ONE_ENGINE
    board: str = ""
    models: frozenset[str] = frozenset()  # digests that it runs already
    measured: int = 0  # of those assigned, whose needs follow from measured costs

    @property
    def free(self) -> Amounts:
        """What is left. Negative where more was assigned than it has."""
        return self.supply - self.used

    @property
    def host(self) -> Host:
        """What a demand depends on."""
        return Host(self.board, self.capacity, self.supply, self.models)

    @property
    def room(self) -> float:
        """What is left of its scarcest resource, in pipelines of the average cost that it expects."""
        shares = [
            free / has
            for free, has in (
                (self.free.engine, self.supply.engine),
                (self.free.cores, self.supply.cores),
                (self.free.memory, self.supply.memory),
            )
            if 0 < has < float("inf")
        ]
        return round(min(self.capacity * min(shares, default=1.0), self.free.places), 6)

    @property
    def utilisation(self) -> float:
        """The part of its scarcest resource that its pipelines need: 1 is all of it, more is too much."""
        used, supply = self.used, self.supply
        shares = [
            need / has
            for need, has in (
                (used.engine, supply.engine),
                (used.cores, supply.cores),
                (used.memory, supply.memory),
                (used.places, supply.places),
            )
            if 0 < has < float("inf")
        ]
        return max(shares, default=0.0)

    @property
    def load(self) -> DeviceLoad:
        """What its pipelines need, and what it has, for users."""
        cores, memory = self.supply.cores, self.supply.memory
        return DeviceLoad(
            engine=round(self.used.engine, 4),
            cores=round(self.used.cores, 4),
            all_cores=None if math.isinf(cores) else round(cores, 4),
            memory=int(self.used.memory),
            all_memory=None if math.isinf(memory) else int(memory),
            measured=self.measured,
            guessed=self.assigned - self.measured,
        )

    def without_pipeline(self, demand: Demand) -> Candidate:
        """The device with one pipeline less. What its model needs of memory stays."""
        return replace(self, assigned=self.assigned - 1, used=self.used - demand.amounts)

    def with_pipeline(self, demand: Demand, models: Iterable[str] = ()) -> Candidate:
        """The device with one more pipeline."""
        return replace(
            self,
            assigned=self.assigned + 1,
            used=self.used + demand.amounts,
            models=self.models.union(models),
            measured=self.measured + demand.is_measured,
        )


def choose(candidates: Iterable[Candidate], need: Callable[[Candidate], Demand]) -> str | None:
    """The device with most room into which a pipeline fits; the first by name if several have the same.

    `need`: what it needs there. None: it fits nowhere.
    """
    for candidate in sorted(candidates, key=order):
        if need(candidate).amounts.fits_into(candidate.free):
            return candidate.device
    return None


def order(candidate: Candidate) -> tuple[float, str]:
    """Sorts devices in the order in which they are tried."""
    return -candidate.room, candidate.device


def meets(labels: Labels, selector: Labels) -> bool:
    """Whether labels have everything that a selector requires."""
    return selector.items() <= labels.items()
