"""Chooses among the devices that may run a pipeline. Pure and deterministic.

`scheduler` finds these devices, and decides when a pipeline moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamfleet_core.protocol.values import Labels


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that is ready to run pipelines."""

    device: str
    capacity: int  # pipelines that it can run
    assigned: int  # pipelines assigned to it that have not ended or failed

    @property
    def room(self) -> int:
        """The number of pipelines that it can still take."""
        return self.capacity - self.assigned


def choose(candidates: Iterable[Candidate]) -> str | None:
    """The device with most room, the first by name if several have the same. None when none has room."""
    roomy = [candidate for candidate in candidates if candidate.room > 0]
    return min(roomy, key=lambda candidate: (-candidate.room, candidate.device)).device if roomy else None


def meets(labels: Labels, selector: Labels) -> bool:
    """Whether labels have everything that a selector requires."""
    return selector.items() <= labels.items()
