"""Decides how many threads one inference uses: one, or all of the engine. Pure: the caller passes the time.

One thread for each inference gives the most frames per second, as several frames run in parallel. All threads
for one inference give the lowest latency. So an inference uses all of them if it is alone, and if they would
be idle for a part of the time anyway. A lone camera needs less idle time than several: its frames come one
after another, those of several at the same time. Its inferences on one thread may overlap, while those on all
threads would not; so it need not be alone, but only one at a time uses all threads.
"""

from __future__ import annotations

import math

_WINDOW = 2.0  # seconds over which the rate of inferences is averaged
_WORTHWHILE = 0.04  # seconds of an inference on one thread; a shorter one gains too little
# Shares of the time in which inferences on all threads may run: to begin with them, and to stay with them.
_LOW, _MIDDLE = 0.75, 0.85
_LOW_LONE, _MIDDLE_LONE = 0.88, 0.94
_GAIN = 0.9  # an inference on all threads must take less than this part of one on one thread
_EXPECTED_GAIN = 0.6  # before enough were measured
_SMOOTHING = 0.2  # weight of the newest duration
_SURE = 5  # inferences on all threads, after which their duration is known
_OLD = 30.0  # seconds after the last one, when it is measured again: it was perhaps disturbed


class RunWidth:
    """The choice of an engine. The caller guards it against use by several threads at once."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._rate = 0.0  # inferences per second
        self._rated_at = 0.0  # monotonic seconds
        self._narrow = 0.0  # seconds of an inference on one thread; 0: unknown
        self._wide = 0.0  # seconds of an inference on all threads; 0: unknown
        self._wide_runs = 0
        self._runs_wide = False  # an inference on all threads
        self._is_disturbed = False  # that one, by others at the same time
        self._wide_at = 0.0  # monotonic seconds of the last one
        self._is_low = False
        self._is_available = False

    @property
    def needs_session(self) -> bool:
        """Whether a session that uses all threads is worth its memory."""
        return not self._is_available and self._is_low and self._is_worthwhile

    def session_is_available(self) -> None:
        """Record that there is a session that uses all threads."""
        self._is_available = True

    def starts(self, now: float, *, alone: bool, lone: bool) -> bool:
        """Record the start of an inference, and return whether it uses all threads.

        `alone`: no other inference runs or waits. `lone`: there is only one camera.
        """
        self._rate = self._rate_at(now) + 1 / _WINDOW
        self._rated_at = now
        if now - self._wide_at > _OLD:
            self._wide, self._wide_runs = 0.0, 0
        is_known = self._wide_runs >= _SURE
        busy = self._rate * (self._wide if is_known else self._narrow * _EXPECTED_GAIN)
        low, middle = (_LOW_LONE, _MIDDLE_LONE) if lone else (_LOW, _MIDDLE)
        self._is_low = 0 < busy < (middle if self._is_low else low)
        self._is_disturbed = self._is_disturbed or self._runs_wide
        if not (self._is_available and self._is_low and self._is_worthwhile):
            return False
        if self._runs_wide or not (alone or lone):
            return False
        self._runs_wide, self._wide_at = True, now
        self._is_disturbed = not alone
        return True

    def ended(self, seconds: float, *, wide: bool) -> None:
        """Record the duration of an inference."""
        if wide:
            self._runs_wide = False
            if not self._is_disturbed:
                self._wide_runs += 1
                self._wide = _smoothed(self._wide, seconds)
        else:
            self._narrow = _smoothed(self._narrow, seconds)

    @property
    def _is_worthwhile(self) -> bool:
        if self._threads < 2 or self._narrow < _WORTHWHILE:
            return False
        return self._wide_runs < _SURE or self._wide < self._narrow * _GAIN

    def _rate_at(self, now: float) -> float:
        return self._rate * math.exp((self._rated_at - now) / _WINDOW)


def _smoothed(before: float, seconds: float) -> float:
    return seconds if not before else before + _SMOOTHING * (seconds - before)
