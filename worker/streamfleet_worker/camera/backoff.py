"""How long to wait before the next attempt. Pure: randomness comes in as a number."""

from __future__ import annotations


class Backoff:
    """Doubles from `first` to `limit` seconds; a success begins anew."""

    def __init__(self, first: float, limit: float) -> None:
        self._first = first
        self._limit = limit
        self.attempts = 0  # failed, since the last success

    def failed(self, chance: float) -> float:
        """Seconds to wait now; `chance`, in [0, 1), spreads a fleet's attempts over the upper half."""
        whole = min(self._limit, self._first * 2.0 ** min(self.attempts, 32))
        self.attempts += 1
        return whole * (0.5 + chance / 2)

    def succeeded(self) -> None:
        """The next failure waits as the first one did."""
        self.attempts = 0
