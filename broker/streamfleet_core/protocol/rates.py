"""Token buckets, for rate limits. Pure: `now` is in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rate:
    """An amount per second, and the largest amount at once."""

    each_second: float
    burst: float


# Limits of a device at the broker. A healthy worker uses at most half of them.
DEVICE_MESSAGES = Rate(300, 600)
DEVICE_BYTES = Rate(512 * 1024, 2 * 1024**2)


@dataclass(slots=True)
class Bucket:
    """The remaining amount of one rate. It starts full."""

    rate: Rate
    left: float = field(init=False)
    filled_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.left = self.rate.burst

    def has(self, amount: float, now: float) -> bool:
        """Whether this amount is available. Takes nothing."""
        gained = max(0.0, now - self.filled_at) * self.rate.each_second
        self.left = min(self.rate.burst, self.left + gained)
        self.filled_at = now
        return self.left >= amount

    def take(self, amount: float, now: float) -> bool:
        """Take this amount if it is available; otherwise take nothing."""
        enough = self.has(amount, now)
        if enough:
            self.left -= amount
        return enough

    def charge(self, amount: float, now: float) -> None:
        """Take this amount or all that is left, for messages that are sent in any case."""
        self.take(amount if self.has(amount, now) else self.left, now)
