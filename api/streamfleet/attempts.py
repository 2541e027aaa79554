"""Retry decisions of one request. Pure: time and randomness are passed in as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamfleet_core.runtime.backoff import Backoff

FIRST_PAUSE = 0.2  # seconds
LONGEST_PAUSE = 5.0  # seconds
_REFUSED = 429  # the request was not carried out, so any request may be repeated
_OVERLOADED = frozenset({502, 503, 504})  # the request may have been carried out


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response: status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Attempts:
    """The attempts of one request. `chance` returns random numbers from 0 to 1."""

    def __init__(self, retries: int, chance: Callable[[], float], *, is_repeatable: bool) -> None:
        self._left = retries
        self._chance = chance
        self._is_repeatable = is_repeatable
        self._backoff = Backoff(first=FIRST_PAUSE, limit=LONGEST_PAUSE)
        self.may_have_succeeded = False  # whether a failed attempt may have been carried out

    def pause_after_failure(self, *, was_sent: bool) -> float | None:
        """Return the seconds to wait after an attempt without a response. None: do not retry."""
        self.may_have_succeeded |= was_sent
        if was_sent and not self._is_repeatable:
            return None
        return self._pause(0.0)

    def pause_after(self, answer: Answer) -> float | None:
        """Return the seconds to wait after this response. None: the response is final."""
        if answer.status in _OVERLOADED and self._is_repeatable:
            self.may_have_succeeded = True
        elif answer.status != _REFUSED:
            return None
        least = _seconds(answer.headers.get("retry-after"))
        return None if least > LONGEST_PAUSE else self._pause(least)

    def succeeded(self) -> None:
        """Reset the backoff, because a stream delivered data."""
        self._backoff.succeeded()

    def _pause(self, least: float) -> float | None:
        if self._backoff.failures >= self._left:
            return None
        return max(least, self._backoff.failed(self._chance()))


def _seconds(text: Any) -> float:
    return float(text) if isinstance(text, str) and text.isascii() and text.isdigit() else 0.0
