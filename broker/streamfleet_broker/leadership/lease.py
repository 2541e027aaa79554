"""The lease of a leader: when it is renewed, and when the leader stops by itself. Pure.

    taken --every RENEW_INTERVAL--> renewed --STOP_AFTER without a renewal--> over, for good

Times are CLOCK_BOOTTIME seconds of this machine, which no jump of the date moves. They are those at which the
renewal was *sent*: another broker waits longer, so this one stops before that one leads.
"""

from __future__ import annotations

from dataclasses import dataclass

RENEW_INTERVAL = 1.5  # seconds
RETRY_INTERVAL = 0.5  # seconds after a renewal that the store did not take
STOP_AFTER = 4.0  # seconds without a renewal, after which the leader changes and answers nothing any more


@dataclass(slots=True)
class Lease:
    """The right to lead. Once it is over, it never returns: only a new epoch leads again."""

    sent_at: float  # of the last renewal that the store took
    tried_at: float = float("-inf")  # of the last one that was sent
    lost: bool = False  # another broker leads

    @property
    def ends_at(self) -> float:
        """When it is over unless it is renewed."""
        return float("-inf") if self.lost else self.sent_at + STOP_AFTER

    def holds(self, now: float) -> bool:
        """Whether this broker may lead. Ask it before each step, as the process may have been suspended."""
        if now >= self.ends_at:
            self.lost = True
        return not self.lost

    def renew_at(self) -> float:
        """When the next renewal is sent."""
        return max(self.sent_at + RENEW_INTERVAL, self.tried_at + RETRY_INTERVAL)

    def tried(self, now: float) -> None:
        """Note that a renewal is being sent."""
        self.tried_at = now

    def renewed(self, sent_at: float) -> None:
        """Note that the store took a renewal. One that took too long has no effect."""
        self.sent_at = max(self.sent_at, sent_at)

    def lose(self) -> None:
        """Note that another broker leads."""
        self.lost = True
