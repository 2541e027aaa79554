"""The hours of a day in which drills are allowed. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time


@dataclass(frozen=True, slots=True)
class Hours:
    """From a time of the day to another one, over midnight if the second is the earlier one."""

    first: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read `22:00-05:00`. Raises: ValueError."""
        found = re.fullmatch(r"([0-2]?\d):([0-5]\d)-([0-2]?\d):([0-5]\d)", text)
        if found is None:
            raise ValueError(f"expected hours as 22:00-05:00, got {text!r}")
        hour, minute, end_hour, end_minute = map(int, found.groups())
        first, end = time(hour, minute), time(end_hour, end_minute)
        if first == end:
            raise ValueError(f"expected two different times, got {text!r}")
        return cls(first, end)

    def __contains__(self, now: time) -> bool:
        if self.first < self.end:
            return self.first <= now < self.end
        return now >= self.first or now < self.end

    def __str__(self) -> str:
        return f"{self.first:%H:%M}-{self.end:%H:%M}"
