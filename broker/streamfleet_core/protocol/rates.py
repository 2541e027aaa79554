"""Token buckets: how much of something there may be in a time. Pure: `now` is in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rate:
    """So much each second, and so much at once by whoever has saved it."""

    each_second: float
    burst: float


# What a device may send to its broker. A worker that is well keeps to half of it.
DEVICE_MESSAGES = Rate(300, 600)
DEVICE_BYTES = Rate(512 * 1024, 2 * 1024**2)


@dataclass(slots=True)
class Bucket:
    """What is left of one rate. It begins full."""

    rate: Rate
    left: float = field(init=False)
    filled_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.left = self.rate.burst

    def has(self, amount: float, now: float) -> bool:
        """Is there so much? Nothing is taken."""
        gained = max(0.0, now - self.filled_at) * self.rate.each_second
        self.left = min(self.rate.burst, self.left + gained)
        self.filled_at = now
        return self.left >= amount

    def take(self, amount: float, now: float) -> bool:
        """Take so much if it is there, and nothing otherwise."""
        enough = self.has(amount, now)
        if enough:
            self.left -= amount
        return enough

    def charge(self, amount: float, now: float) -> None:
        """Take so much, or all that is there: for what goes in any case."""
        self.take(amount if self.has(amount, now) else self.left, now)
