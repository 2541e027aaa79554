"""Decides which frames of a source are decoded, as Roboflow's adaptive strategies do. Pure.

A skipped frame is grabbed but not converted to a picture, which saves that work.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamfleet_core.protocol.values import Consumption, Filling, SourceSpec

_WINDOW = 30  # ticks
_ENOUGH = 10  # ticks; with more, the rate is known
_GRABBING_LAG = 0.1  # frames/s below the declared rate
_READING_LAG = 5.0  # frames/s below the decoding rate
_SKIPS_IN_A_ROW = 16
_FRESH = 0.05  # seconds; an older waiting frame is always replaced by a newer one


def filling_of(source: SourceSpec, *, finite: bool) -> Filling:
    """Behaviour of a source when its buffer is full."""
    return source.filling or ("WAIT" if finite else "ADAPTIVE_DROP_OLDEST")


def consumption_of(source: SourceSpec, *, finite: bool) -> Consumption:
    """Choice of the frame of its buffer that is taken next."""
    return source.consumption or ("LAZY" if finite else "EAGER")


class Rate:
    """The recent rate of an event."""

    def __init__(self) -> None:
        self._ticks: deque[float] = deque(maxlen=_WINDOW)  # monotonic seconds

    def tick(self, now: float) -> None:
        """Record the event."""
        self._ticks.append(now)

    def until(self, now: float | None = None) -> float | None:
        """Events per second up to `now`, as if one happened now; without `now`, up to the last event.

        None if there are too few events.
        """
        if len(self._ticks) <= _ENOUGH:
            return None
        span = (self._ticks[-1] if now is None else now) - self._ticks[0]
        intervals = len(self._ticks) - (1 if now is None else 0)
        return intervals / span if span > 0 else None


@dataclass(frozen=True, slots=True)
class Paces:
    """Frames per second at each step of a source. None: not known (yet)."""

    announced: float | None  # by the source itself
    grabbing: float | None
    decoding: float | None
    reading: float | None  # by the consumer of the buffer


class Skipping:
    """Decides for each frame. It never lets the buffer run empty or its newest frame become old."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def skips(self, paces: Paces, waiting: float | None) -> bool:
        """Return whether to skip decoding of the grabbed frame.

        `waiting` is the age in seconds of the newest frame in the buffer; None if the buffer is empty: then
        the frame is needed at once, and skipping it would cost a prediction.
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
