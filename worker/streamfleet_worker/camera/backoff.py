"""How long to wait before the next attempt. Pure: randomness comes in as a number."""

from __future__ import annotations

from typing import Literal

from streamfleet_broker.protocol.status import SourceCause

FIRST_PAUSE = 0.5  # seconds, after the first attempt that failed
SHORT_PAUSE = (
    3.0  # seconds at most, for what comes back by itself: pictures must flow within 5 s of its return
)
LONG_PAUSE = 15.0  # seconds at most, for what somebody must put right
LOGIN_PAUSE = 30.0  # seconds at least, between wrong logins, so that no camera locks us out

_Patience = Literal["short", "long", "login"]
_PATIENCE: dict[SourceCause, _Patience] = {
    "refused": "short",
    "unreachable": "short",
    "timeout": "short",
    "ended": "short",
    "authentication": "login",
    "not_found": "long",
    "codec": "long",
    "invalid": "long",
    "internal": "long",
}
# What a server says while it starts again: the path is not there yet, or nothing comes through it.
_PASSING: frozenset[SourceCause] = frozenset({"not_found", "codec"})


class Backoff:
    """Doubles from `first` to `limit` seconds; a success begins anew."""

    def __init__(self, first: float, limit: float) -> None:
        self._first = first
        self._limit = limit
        self.attempts = 0  # failed, since the last success

    def failed(self, chance: float) -> float:
        """Seconds to wait now; `chance`, in [0, 1), spreads a fleet's attempts over the upper half."""
        whole = doubled(self._first, self.attempts, self._limit)
        self.attempts += 1
        return whole * (0.5 + chance / 2)

    def succeeded(self) -> None:
        """The next failure waits as the first one did."""
        self.attempts = 0


class SourceBackoff:
    """How long a source is left alone depends on what was wrong with it."""

    def __init__(self) -> None:
        self._attempts = 0  # failed, since the last success
        self._worked = False  # it gave pictures once

    def failed(self, cause: SourceCause, chance: float) -> float:
        """Seconds to wait now; `chance`, in [0, 1), spreads a fleet's attempts."""
        attempts, self._attempts = self._attempts, self._attempts + 1
        patience = "short" if self._worked and cause in _PASSING else _PATIENCE[cause]
        if patience == "login":
            return LOGIN_PAUSE * (1 + chance / 10)
        limit = SHORT_PAUSE if patience == "short" else LONG_PAUSE
        return doubled(FIRST_PAUSE, attempts, limit) * (0.5 + chance / 2)

    def succeeded(self) -> None:
        """A picture came."""
        self._attempts = 0
        self._worked = True


def doubled(first: float, times: int, limit: float) -> float:
    """`first`, doubled so many times, but at most `limit`."""
    return min(limit, first * 2.0 ** min(times, 32))
