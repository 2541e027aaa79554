"""Which failures of a source are worth a line in the log. Pure: the time comes in as a number."""

from __future__ import annotations

EVERY = 300.0  # seconds, from a line to the next one that says the same


class LogThrottle:
    """Each reason is told when it is new, and again every five minutes while it lasts.

    A picture in between changes nothing, or a source that comes and goes would fill the log.
    """

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}  # by reason: when, and how often it came since

    def failed(self, reason: str, now: float) -> int:
        """How often this came since it was told last, with this time. 0: it need not be told now."""
        # What did not come for so long is new again; and texts that hold a figure do not pile up.
        self._told = {text: told for text, told in self._told.items() if now - told[0] < 2 * EVERY}
        told_at, untold = self._told.get(reason, (None, 0))
        if told_at is not None and now - told_at < EVERY:
            self._told[reason] = (told_at, untold + 1)
            return 0
        self._told[reason] = (now, 0)
        return untold + 1
