"""Whether the pipelines of any one device would fit on the others, if it were lost. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from streamfleet_broker.fleet.capacity.demand import Demand
from streamfleet_broker.fleet.capacity.device_pool import DevicePool
from streamfleet_broker.fleet.capacity.placement import Candidate


@dataclass(frozen=True, slots=True)
class Movable:
    """A pipeline that would move to another device."""

    need: Callable[[Candidate], Demand]  # on a device
    allows: Callable[[Candidate], bool]  # whether a device may run it
    models: tuple[str, ...] = ()


def not_spared(pool: DevicePool, movable: Callable[[str], Sequence[Movable]]) -> str | None:
    """The first device whose loss the others could not take in; None if there is none.

    `movable`: the pipelines of a device that would move.
    """
    for candidate in pool:
        if not fit_elsewhere(pool, candidate.device, movable(candidate.device)):
            return candidate.device
    return None


def fit_elsewhere(pool: DevicePool, lost: str, movable: Iterable[Movable]) -> bool:
    """Whether these pipelines fit on the devices beside the lost one, placed one after another."""
    changed: DevicePool | None = None  # copied at the first change only
    for pipeline in movable:
        if changed is None:
            changed = pool.copy()
            changed.remove(lost)
        chosen = changed.choose(pipeline.need, pipeline.allows)
        if chosen is None:
            return False
        changed.put(chosen.with_pipeline(pipeline.need(chosen), pipeline.models))
    return True
