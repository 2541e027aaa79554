"""Decides which priority has the next turn. Pure: no thread, no clock.

The highest priority that waits is first, so that on a busy device its frames are inferred as if there were
no others. A lower one that waits still gets at least one turn in `TURNS`, so that it never stands still.
"""

from __future__ import annotations

from collections.abc import Collection

from streamfleet_core.protocol.values import PRIORITIES, Priority

TURNS = 10  # in which a priority that waits has at least one

_RANK = {priority: rank for rank, priority in enumerate(PRIORITIES)}


class PriorityOrder:
    """Counts the turns that each priority has waited through."""

    def __init__(self) -> None:
        self._passed = dict.fromkeys(PRIORITIES, 0)  # turns of others since its own last one, while it waits

    def sequence(self, waiting: Collection[Priority]) -> list[Priority]:
        """The priorities that wait, the one whose turn is next first."""
        if len(waiting) < 2:
            return list(waiting)
        return sorted(waiting, key=lambda priority: (-self._overdue(priority), _RANK[priority]))

    def record(self, priority: Priority, waiting: Collection[Priority]) -> None:
        """Record a turn of a priority, while these waited."""
        for other in waiting:
            self._passed[other] += 1
        self._passed[priority] = 0

    def copy(self) -> PriorityOrder:
        """An order of its own, to look ahead."""
        other = PriorityOrder()
        other._passed = self._passed.copy()
        return other

    def _overdue(self, priority: Priority) -> int:
        """How long its turn has been due: 1 from the moment it is; 0 while it has to wait."""
        return max(0, self._passed[priority] + 2 - TURNS)


def rank(priority: Priority) -> int:
    """The place of a priority: 0 of the highest."""
    return _RANK[priority]
