"""The pause before a lost source is reopened. Pure: the caller passes the random number."""

from __future__ import annotations

from typing import Literal

from streamfleet_core.protocol.status import SourceCause
from streamfleet_core.runtime.backoff import Backoff

FIRST_PAUSE = 0.5  # seconds, after the first failed attempt
SHORT_PAUSE = 3.0  # seconds at most, for temporary failures: pictures must flow within 5 s of the recovery
LONG_PAUSE = 15.0  # seconds at most, for failures that need a person to fix them
LOGIN_PAUSE = 30.0  # seconds at least, between wrong logins, so that the camera does not lock us out

_Policy = Literal["short", "long", "login"]
_POLICIES: dict[SourceCause, _Policy] = {
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
# Causes that a restarting server reports: the path does not exist yet, or delivers nothing.
_PASSING: frozenset[SourceCause] = frozenset({"not_found", "codec"})


class SourceBackoff:
    """The pause before a source is reopened, which depends on the cause of its failure."""

    def __init__(self) -> None:
        self._attempts = 0  # failed attempts since the last success
        self._worked = False  # it has delivered pictures before

    def failed(self, cause: SourceCause, chance: float) -> float:
        """Return the seconds to wait. `chance`, in [0, 1), spreads the attempts of a fleet."""
        attempts, self._attempts = self._attempts, self._attempts + 1
        policy = "short" if self._worked and cause in _PASSING else _POLICIES[cause]
        if policy == "login":
            return LOGIN_PAUSE * (1 + chance / 10)
        limit = SHORT_PAUSE if policy == "short" else LONG_PAUSE
        return Backoff(first=FIRST_PAUSE, limit=limit, failures=attempts).failed(chance)

    def succeeded(self) -> None:
        """Record that it delivers pictures."""
        self._attempts = 0
        self._worked = True
