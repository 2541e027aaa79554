"""How often devices publish statuses. Each costs the relay and the API, so it is less often in a large fleet.

In any fleet a changed state is published at once. The interval is for figures, which change all the time.
Pure.
"""

from __future__ import annotations

STATUSES = 2500  # a second, of the whole fleet; beyond, each comes less often
SHORTEST = 1.0  # seconds
LONGEST = 2.0  # seconds; so that a rate is not outdated for the API (5 s) when one status gets lost


def status_interval(subjects: int) -> float:
    """The seconds between two statuses of each of so many pipelines and devices."""
    return min(LONGEST, max(SHORTEST, subjects / STATUSES))
