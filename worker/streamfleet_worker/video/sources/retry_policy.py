"""How long a lost source is left alone. Pure: randomness comes in as a number."""

from __future__ import annotations

from typing import Literal

from streamfleet_core.protocol.status import SourceCause
from streamfleet_core.runtime.backoff import Backoff

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
    "undecodable": "short",
    "invalid": "long",
    "internal": "long",
}
# What a server says while it starts again: the path is not there yet, or nothing comes through it.
_PASSING: frozenset[SourceCause] = frozenset({"not_found", "codec"})


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
        return Backoff(first=FIRST_PAUSE, limit=limit, failures=attempts).failed(chance)

    def succeeded(self) -> None:
        """A picture came."""
        self._attempts = 0
        self._worked = True
