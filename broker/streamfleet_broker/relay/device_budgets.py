"""The budget of each device at all relays together, and a count of what was dropped beyond it."""

from __future__ import annotations

import threading
import time
from collections import Counter

from streamfleet_broker.budget import Budgets, Limits, Reserve


class DeviceBudgets:
    """The budgets of devices on the data plane. Any thread may use them, each with reserves of its own."""

    def __init__(self, limits: Limits) -> None:
        self._lock = threading.Lock()
        self._budgets = Budgets(limits)
        self._dropped: Counter[str] = Counter()  # messages since the last call of `take_dropped`, by key

    def refill(self, key: str, reserve: Reserve, size: int) -> bool:
        """Refill a reserve for a message of `size` bytes. False: it must be dropped, and is counted."""
        with self._lock:
            if self._budgets.refill(key, reserve, size, time.monotonic()):
                return True
            self._dropped[key] += 1
            return False

    def take_dropped(self) -> Counter[str]:
        """The messages that were dropped since the last call, by key."""
        with self._lock:
            dropped, self._dropped = self._dropped, Counter()
        return dropped

    def forget(self, until: float) -> None:
        """Drop budgets that were not used since `until`: they are full again."""
        with self._lock:
            self._budgets.forget(until)
