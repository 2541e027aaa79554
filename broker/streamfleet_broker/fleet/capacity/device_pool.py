"""Devices in the order of their room, kept in it as they change. Pure.

A change costs a binary search, and a choice looks at few devices, however many there are.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator

from streamfleet_broker.fleet.capacity.demand import Demand
from streamfleet_broker.fleet.capacity.placement import Candidate, order


class DevicePool:
    """Devices by name, and by room."""

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        self._candidates: dict[str, Candidate] = {}
        self._order: list[tuple[float, str]] = []
        for candidate in candidates:
            self.put(candidate)

    def __iter__(self) -> Iterator[Candidate]:
        """The devices, those with most room first."""
        return (self._candidates[name] for _, name in self._order)

    def __contains__(self, device: str) -> bool:
        return device in self._candidates

    def __getitem__(self, device: str) -> Candidate:
        """One device. Raises: KeyError."""
        return self._candidates[device]

    def put(self, candidate: Candidate) -> None:
        """Add a device, or replace what is known of it."""
        self.remove(candidate.device)
        self._candidates[candidate.device] = candidate
        bisect.insort(self._order, order(candidate))

    def remove(self, device: str) -> None:
        """Remove a device, if it is there."""
        known = self._candidates.pop(device, None)
        if known is not None:
            del self._order[bisect.bisect_left(self._order, order(known))]

    def choose(
        self, need: Callable[[Candidate], Demand], allows: Callable[[Candidate], bool] = lambda _: True
    ) -> Candidate | None:
        """The device with most room that is allowed and into which a pipeline fits."""
        for candidate in self:
            if need(candidate).amounts.fits_into(candidate.free) and allows(candidate):
                return candidate
        return None

    def copy(self) -> DevicePool:
        """A pool whose changes do not change this one."""
        pool = DevicePool()
        pool.fill_from(self)
        return pool

    def fill_from(self, other: DevicePool) -> None:
        """Become like another pool, whose changes then do not change this one."""
        self._candidates, self._order = dict(other._candidates), list(other._order)

    def position(self, device: str) -> int:
        """The place of a device in the order of room. Raises: KeyError."""
        return bisect.bisect_left(self._order, order(self._candidates[device]))

    def from_position(self, first: int) -> Iterator[Candidate]:
        """The devices from this place on, and after the last one from the first."""
        count = len(self._order)
        return (self._candidates[self._order[(first + each) % count][1]] for each in range(count))
