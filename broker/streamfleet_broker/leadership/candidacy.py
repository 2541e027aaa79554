"""When a broker that does not lead takes the lead. Pure.

    waiting --the leader's beat stands still for LEASE, or it has resigned--> takes the lead

A leader changes its beat with each renewal. A candidate measures with its own clock for how long the beat has
stood still, so that no two clocks are compared: a date that jumps has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass

LEASE = 5.0  # seconds; a leader stops by itself before, see `lease`
POLL_INTERVAL = 0.25  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Seen:
    """What the store says of the leader."""

    epoch: int
    beat: int  # +1 with each renewal
    leader: str  # how operators know it; "" if it has resigned, or there was none yet
    version: int = 0  # +1 with each write


class Candidacy:
    """One broker that may lead. `now`: CLOCK_BOOTTIME in seconds."""

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._still_since = 0.0  # since the beat was seen first

    def see(self, seen: Seen, now: float) -> bool:
        """Take a look, and return whether to take the lead now. The store lets one candidate do so."""
        if seen != self._seen:
            self._seen, self._still_since = seen, now
        return not seen.leader or now - self._still_since >= LEASE
