"""Says in figures why a pipeline fits on no device. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamfleet_broker.fleet.capacity.amounts import Resource
from streamfleet_broker.fleet.capacity.demand import Demand
from streamfleet_broker.fleet.capacity.placement import Candidate

_GIB = 1024**3


def shortage(candidates: Sequence[Candidate], need: Callable[[Candidate], Demand]) -> str:
    """The sentence about a pipeline that fits on none of these devices. There is at least one."""
    best = min(candidates, key=lambda each: (-need(each).amounts.scarcest(each.free)[1], each.device))
    amounts = need(best).amounts
    resource, _ = amounts.scarcest(best.free)
    wanted, left = amounts.of(resource), max(0.0, best.free.of(resource))
    _, times = need(_emptied(best)).amounts.scarcest(best.supply)
    return (
        f"unschedulable: needs {_shown(wanted, resource)}, "
        f"the best device ({best.device}) has {_number(left, resource)}; "
        f"one more device like {best.device} would fit {int(times)}"
    )


def _emptied(candidate: Candidate) -> Candidate:
    """The same device without pipelines."""
    return Candidate(candidate.device, candidate.capacity, supply=candidate.supply, board=candidate.board)


def _shown(amount: float, resource: Resource) -> str:
    number = _number(amount, resource)
    match resource:
        case "engine":
            return f"{number} of an engine"
        case "cores":
            return f"{number} cores"
        case "memory":
            return f"{number} of memory"
        case "places":
            return f"{number} place" if amount == 1 else f"{number} places"


def _number(amount: float, resource: Resource) -> str:
    if resource == "memory":
        return f"{amount / _GIB:.2f} GiB"
    return f"{amount:.0f}" if resource == "places" else f"{amount:.2f}"
