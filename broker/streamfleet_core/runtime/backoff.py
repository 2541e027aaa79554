"""The time to wait before the next attempt. Pure: the caller passes the random number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with jitter. A success resets it."""

    first: float  # seconds, after the first failure
    limit: float  # seconds, at most
    factor: float = 2.0
    jitter: float = 0.5  # the part of a pause that is random: 0 none of it, 1 all ("full jitter")
    failures: int = 0  # since the last success

    def failed(self, chance: float = 1.0) -> float:
        """Count a failure, and return the seconds to wait now."""
        pause = self.pause(chance)
        self.failures += 1
        return pause

    def pause(self, chance: float = 1.0) -> float:
        """Return the seconds to wait now. `chance`, in [0, 1), spreads the attempts of a fleet."""
        whole = min(self.limit, self.first * self.factor ** min(self.failures, 32))
        return whole * (1 - self.jitter * (1 - chance))

    def succeeded(self) -> None:
        """Reset: the next failure waits as long as the first one."""
        self.failures = 0
