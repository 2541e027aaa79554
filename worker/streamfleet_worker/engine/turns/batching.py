"""Decides when a batch begins. Pure: the caller passes the time.

A batch costs an accelerator little more than a single frame, so it waits for frames that are about to come,
but only for those of cameras that are filling their slots, and never for longer than the limit. While
another batch runs, the next one grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MAX_DELAY = 0.005  # seconds that a filled slot waits for others, if nothing was measured
LONGEST_DELAY = 0.01  # seconds, at most that after a measurement
_NEARLY = 0.95  # of the most frames per second that any size of a batch gives


@dataclass(frozen=True, slots=True)
class Batching:
    """The rules of one model."""

    max_batch: int  # slots; with 1, inferences run side by side
    max_delay: float = MAX_DELAY

    def delay(self, *, filled: int, coming: int, oldest: float, running: int, now: float) -> float:
        """Seconds until the next batch begins: 0 for now, infinity if another event decides.

        Args:
            filled: the number of slots that can run.
            coming: the number of slots whose cameras fill them now.
            oldest: monotonic seconds at which the first of the filled slots was filled.
            running: the number of batches that run.
            now: monotonic seconds.
        """
        if not filled:
            return math.inf
        if self.max_batch == 1:
            return 0.0
        if running:
            return math.inf  # an accelerator runs one after the other
        if filled >= self.max_batch or not coming:
            return 0.0
        return max(0.0, oldest + self.max_delay - now)

    def ahead(self, *, idle: int) -> int:
        """The number of slots to have filled, or in filling, if `idle` threads wait for one."""
        return idle + 1 if self.max_batch == 1 else self.max_batch


def measured_rules(seconds: Mapping[int, float]) -> Batching:
    """The rules for an accelerator whose batch of so many frames takes so many seconds.

    The smallest batch with nearly the most frames per second: a larger one only makes predictions older. A
    frame waits for another one no longer than what a batch of its own costs beyond its frames.

    `seconds`: by the size of the batch, with that of a single frame.
    """
    best = max(size / taken for size, taken in seconds.items())
    max_batch = min(size for size, taken in seconds.items() if size / taken >= _NEARLY * best)
    largest = max(seconds)
    each = (seconds[largest] - seconds[1]) / max(1, largest - 1)
    delay = min(LONGEST_DELAY, max(0.0, seconds[1] - max(0.0, each)))
    return Batching(max_batch, round(delay, 4))
