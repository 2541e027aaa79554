"""Amounts of the resources of a device: what it has, what pipelines need, what is left. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Resource = Literal["engine", "cores", "memory", "places"]
RESOURCES: tuple[Resource, ...] = ("engine", "cores", "memory", "places")
_TOLERANCE = 1e-9  # of rounding, relative


@dataclass(frozen=True, slots=True)
class Amounts:
    """One amount of each resource."""

    engine: float = 0.0  # of the device's accelerator, or of its CPU where there is none: 1 is all of it
    cores: float = 0.0
    memory: float = 0.0  # bytes
    places: float = 0.0  # pipelines

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.engine + other.engine,
            self.cores + other.cores,
            self.memory + other.memory,
            self.places + other.places,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.engine - other.engine,
            self.cores - other.cores,
            self.memory - other.memory,
            self.places - other.places,
        )

    def of(self, resource: Resource) -> float:
        """The amount of one resource."""
        amount: float = getattr(self, resource)
        return amount

    def fits_into(self, free: Amounts) -> bool:
        """Whether this is available. What is not needed is available in any case."""
        return (
            _fits(self.engine, free.engine)
            and _fits(self.cores, free.cores)
            and _fits(self.memory, free.memory)
            and _fits(self.places, free.places)
        )

    def largest(self, other: Amounts) -> Amounts:
        """The larger amount of each resource."""
        return Amounts(
            max(self.engine, other.engine),
            max(self.cores, other.cores),
            max(self.memory, other.memory),
            max(self.places, other.places),
        )

    def scarcest(self, free: Amounts) -> tuple[Resource, float]:
        """The resource of which there is least for this need, and how many times the need is there."""
        times = {each: _times(self.of(each), free.of(each)) for each in RESOURCES}
        scarce = min(RESOURCES, key=lambda each: times[each])
        return scarce, times[scarce]


NOTHING = Amounts()
ONE_ENGINE = Amounts(1.0, math.inf, math.inf, math.inf)  # of a device of which nothing else is known


def _fits(need: float, free: float) -> bool:
    return need <= 0 or need <= free + _TOLERANCE * max(need, 1.0)


def _times(need: float, free: float) -> float:
    if need <= 0:
        return math.inf
    return max(0.0, free + _TOLERANCE * max(need, 1.0)) / need
