"""Throttles log lines about repeated failures. Pure: the caller passes the time."""

from __future__ import annotations

EVERY = 300.0  # seconds between two lines with the same text


class LogThrottle:
    """Logs each reason when it is new, and every five minutes while it repeats.

    A success in between does not reset it: otherwise a source that fails repeatedly would fill the log.
    """

    def __init__(self) -> None:
        self._logged: dict[str, tuple[float, int]] = {}  # by reason: when, and repetitions since

    def failed(self, reason: str, now: float) -> int:
        """Return how often the reason occurred since its last line, this time included; 0: do not log it."""
        # A reason that did not occur for long is new again. This also bounds the number of different texts.
        self._logged = {text: entry for text, entry in self._logged.items() if now - entry[0] < 2 * EVERY}
        logged_at, suppressed = self._logged.get(reason, (None, 0))
        if logged_at is not None and now - logged_at < EVERY:
            self._logged[reason] = (logged_at, suppressed + 1)
            return 0
        self._logged[reason] = (now, 0)
        return suppressed + 1
