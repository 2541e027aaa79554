"""Which frames of a source are worth their decoding, as the original's adaptive strategies say. Pure.

A frame that is skipped is grabbed and not decoded: what is saved is the conversion of its picture.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamfleet_core.protocol.values import Consumption, Filling, SourceSpec

_WINDOW = 30  # ticks
_ENOUGH = 10  # ticks; a rate is known when there are more
_GRABBING_LAG = 0.1  # frames/s behind what the source announces
_READING_LAG = 5.0  # frames/s behind what is decoded
_SKIPS_IN_A_ROW = 16
_FRESH = 0.05  # seconds; a waiting frame that is older is replaced by a newer one, whatever that costs


def filling_of(source: SourceSpec, *, finite: bool) -> Filling:
    """What a source does when its buffer is full."""
    return source.filling or ("WAIT" if finite else "ADAPTIVE_DROP_OLDEST")


def consumption_of(source: SourceSpec, *, finite: bool) -> Consumption:
    """Which frame of its buffer is taken."""
    return source.consumption or ("LAZY" if finite else "EAGER")


class Rate:
    """How often something happened lately."""

    def __init__(self) -> None:
        self._ticks: deque[float] = deque(maxlen=_WINDOW)  # monotonic seconds

    def tick(self, now: float) -> None:
        """It happened."""
        self._ticks.append(now)

    def until(self, now: float | None = None) -> float | None:
        """Times a second up to now, as if it happened now; without `now` up to the last time.

        None while there are too few to tell.
        """
        if len(self._ticks) <= _ENOUGH:
            return None
        span = (self._ticks[-1] if now is None else now) - self._ticks[0]
        intervals = len(self._ticks) - (1 if now is None else 0)
        return intervals / span if span > 0 else None


@dataclass(frozen=True, slots=True)
class Paces:
    """Frames a second at each step of a source. None: not known yet, or not at all."""

    announced: float | None  # by the source itself
    grabbing: float | None
    decoding: float | None
    reading: float | None  # by what comes after the buffer


class Skipping:
    """Decides frame by frame. It never lets the buffer run dry or its newest frame grow old."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def skips(self, paces: Paces, waiting: float | None) -> bool:
        """Whether the frame that was grabbed is not decoded.

        `waiting` is the age in seconds of the newest frame in the buffer. Without one the frame is wanted at
        once, so skipping it would cost a prediction and not only work.
        """
        late = waiting is None or waiting > _FRESH
        if late or self._in_a_row >= _SKIPS_IN_A_ROW or not _lags(paces):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        return True


def _lags(paces: Paces) -> bool:
    if paces.grabbing is None:
        return False
    if paces.announced and paces.announced - paces.grabbing > _GRABBING_LAG:
        return True
    if paces.decoding is None or paces.reading is None:
        return False
    return paces.decoding - paces.reading > _READING_LAG
