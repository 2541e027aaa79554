"""When a child process that crashed is started again. Pure: the caller passes the random number."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamfleet_core.runtime.backoff import Backoff

FIRST_PAUSE = 0.5  # seconds
PAUSE_FACTOR = 1.5
LAST_PAUSE = 300.0  # seconds
HEALTHY = 60.0  # seconds after which a crash counts as the first one


@dataclass(slots=True)
class RestartPolicy:
    """The pauses of one child: each crash makes them longer."""

    at: float = float("-inf")  # not before
    backoff: Backoff = field(
        default_factory=lambda: Backoff(first=FIRST_PAUSE, limit=LAST_PAUSE, factor=PAUSE_FACTOR, jitter=1.0)
    )

    def crashed(self, started_at: float, now: float, chance: float) -> None:
        """Wait longer than last time, unless the child was healthy. `chance`, in [0, 1), is the jitter."""
        if now - started_at >= HEALTHY:
            self.backoff.succeeded()
        self.at = now + self.backoff.failed(chance)
