"""Which device a pipeline goes to. Pure, and the same answer for the same question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamfleet_broker.protocol.values import Labels


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that is ready to run pipelines."""

    device: str
    capacity: int  # pipelines that it is willing to run
    assigned: int  # pipelines that it has been given and that have not ended or failed

    @property
    def room(self) -> int:
        """Pipelines that it would still take."""
        return self.capacity - self.assigned


def choose(candidates: Iterable[Candidate]) -> str | None:
    """The device with most room, of equals the first by name. None when nobody has room."""
    roomy = [candidate for candidate in candidates if candidate.room > 0]
    return min(roomy, key=lambda candidate: (-candidate.room, candidate.device)).device if roomy else None


def meets(labels: Labels, selector: Labels) -> bool:
    """Has a device with these labels all that a selector asks for?"""
    return selector.items() <= labels.items()
