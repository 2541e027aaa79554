"""How many predictions a second a device replays: what it can spare beside its live ones. Pure.

    free processors, short send queue ──► more, up to a share of one processor
    no processor is free              ──► less, down to a share of all processors
    the network is behind             ──► less, down to a trickle

What a prediction costs is measured, so that a small device replays fewer than a large one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamfleet_core.protocol.rates import Bucket, Rate

LEAST = 200.0  # predictions a second, on a device whose processors are busy
TRICKLE = 20.0  # on a network that takes no more
# A second, live ones included: less than the relay takes of a device (`--device-messages`).
MOST = 5000.0
BUSY_SHARE = 0.05  # of the time of all processors, while none is free
FREE_SHARE = 0.5  # of the time of one processor
LATE = 0.002  # seconds after which a thread that wakes up found no free processor
BEHIND = 32 * 1024  # bytes that the network has not taken
DELAY = 0.1  # seconds that a message waits in the network because of others
PIECE = 32  # predictions that are sent at a time, about
PART = 64  # predictions of one answer at most: a few, so that other requests have their turn
PART_TIME = 0.32  # seconds that the predictions of one answer take at most: no subscriber gives a device up
INTERVALS = (0.005, 0.02)  # seconds between two times
_GROWTH, _CUT, _NETWORK_CUT = 1.05, 0.9, 0.7
_WINDOW = 10.0  # seconds over which the live rate is measured
_FIRST_COST = 1e-4  # CPU seconds of a prediction, until it is measured
_WEIGHT = 0.05  # of a new measurement of it


@dataclass(frozen=True, slots=True)
class Network:
    """How far the network is behind."""

    unsent: int = 0  # bytes
    delay: float = 0.0  # seconds more than when it was idle

    @property
    def is_behind(self) -> bool:
        """Whether live predictions would wait."""
        return self.unsent > BEHIND or self.delay > DELAY


class Pacing:
    """The rate of replays. `now` is in seconds.

    Args:
        cores: processors that the device has.
    """

    def __init__(self, cores: float, now: float) -> None:
        self._cores = cores
        self._counts: deque[tuple[float, int]] = deque([(now, 0)])
        self._total = 0
        self._cost = _FIRST_COST
        self.rate = LEAST
        self._bucket = Bucket(self._as_rate())

    @property
    def live(self) -> float:
        """Live predictions a second."""
        return self._total / _WINDOW

    @property
    def interval(self) -> float:
        """Seconds until the next predictions are sent."""
        shortest, longest = INTERVALS
        return min(max(PIECE / self.rate, shortest), longest)

    @property
    def part(self) -> int:
        """Predictions of the next answer, at most."""
        return max(1, min(PART, round(self.rate * PART_TIME)))

    def count_live(self, more: int, now: float) -> None:
        """Count live predictions."""
        self._counts.append((now, more))
        self._total += more
        while len(self._counts) > 1 and self._counts[0][0] < now - _WINDOW:
            self._total -= self._counts.popleft()[1]

    def spend(self, seconds: float, count: int) -> None:
        """Note the CPU time that the reading and sending of `count` predictions took."""
        if count > 0:
            self._cost += min(1.0, _WEIGHT * count / PIECE) * (seconds / count - self._cost)

    def adapt(self, late: float, network: Network, *, is_taken: bool) -> None:
        """Follow what happened since the last predictions were handed over.

        Args:
            late: seconds that this thread woke up too late.
            is_taken: whether the publishing thread has taken what was handed over.
        """
        least = max(LEAST, 2 * self.live, BUSY_SHARE * self._cores / self._cost)
        most = max(LEAST, 2 * self.live, min(FREE_SHARE / self._cost, MOST - self.live))
        if network.is_behind:
            self.rate = max(TRICKLE, self.rate * _NETWORK_CUT)
        elif late <= LATE and is_taken:
            self.rate *= _GROWTH
        elif self.rate > least:
            self.rate = max(least, self.rate * _CUT)
        else:
            self.rate = min(least, self.rate * _GROWTH)
        self.rate = min(self.rate, most)
        self._bucket.rate = self._as_rate()

    def take(self, now: float) -> bool:
        """Whether one more prediction may be handed over now."""
        return self._bucket.take(1, now)

    def _as_rate(self) -> Rate:
        return Rate(self.rate, max(1.0, 2 * self.rate * self.interval))
