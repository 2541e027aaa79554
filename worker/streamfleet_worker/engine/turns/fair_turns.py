"""Decides which of the waiting sources has the next turn. Pure: no thread, no clock.

There are rounds: in each, every waiting source has one turn. Within a round, the source with the newest frame
is next: its prediction will be the youngest, and the others get newer frames meanwhile. At the end of a round
few sources are left. If all of their frames are old, sources with newer ones have their turns of the next
rounds first, so that an old frame may wait for the next one of its source. A source is never more than two
rounds ahead, except of sources that cannot run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

SourceT = TypeVar("SourceT", bound=Hashable)

ALWAYS_NEW = math.inf  # the time of a frame that cannot be replaced by a newer one
OLD = 0.5  # seconds, the age of an old frame
AHEAD = 2  # rounds


class FairTurns(Generic[SourceT]):
    """The sources that wait for a turn."""

    def __init__(self) -> None:
        self._round = 0
        self._rounds: dict[SourceT, int] = {}  # in which each waiting source has its turn
        self._decoded_at: dict[SourceT, float] = {}  # monotonic seconds, of its newest frame
        self._next: dict[SourceT, int] = {}  # the earliest round of those that wait no longer

    def __len__(self) -> int:
        return len(self._rounds)

    def __contains__(self, source: SourceT) -> bool:
        return source in self._rounds

    def __iter__(self) -> Iterator[SourceT]:
        return iter(self._rounds)

    def add(self, source: SourceT, decoded_at: float) -> None:
        """Add a source that waits from now on. `decoded_at`: monotonic seconds, of its newest frame."""
        self._rounds[source] = max(self._round, self._next.pop(source, 0))
        self._decoded_at[source] = decoded_at
        self._advance(min(self._rounds.values()))

    def refresh(self, source: SourceT, decoded_at: float) -> None:
        """Record that a waiting source has a newer frame."""
        self._decoded_at[source] = max(decoded_at, self._decoded_at[source])

    def take(self, source: SourceT) -> None:
        """Give a waiting source its turn. It waits no longer."""
        # A source that cannot run does not hold up the rounds: a new one would have the turns of all of them.
        self._advance(self._rounds[source] - AHEAD)
        self._leave(source, self._rounds[source] + 1)

    def remove(self, source: SourceT) -> float:
        """Remove a source that waits no longer, without a turn. Returns the time of its newest frame."""
        decoded_at = self._decoded_at[source]
        self._leave(source, self._rounds[source])
        return decoded_at

    def forget(self, is_gone: Callable[[SourceT], bool]) -> None:
        """Forget sources that do not come back."""
        for source in [source for source in self._rounds if is_gone(source)]:
            self.remove(source)
        self._next = {source: at for source, at in self._next.items() if not is_gone(source)}

    def order(self, now: float) -> list[SourceT]:
        """The waiting sources, the next one first. `now`: monotonic seconds."""
        open_until = self._open_until(now)
        return sorted(
            self._rounds,
            key=lambda source: (max(self._rounds[source], open_until), -self._decoded_at[source]),
        )

    def _open_until(self, now: float) -> int:
        """The last round whose sources may have their turns: the first one with a frame that is not old."""
        for last in range(self._round, self._round + AHEAD):
            if any(
                at <= last and now - self._decoded_at[source] <= OLD for source, at in self._rounds.items()
            ):
                return last
        return self._round + AHEAD

    def _leave(self, source: SourceT, next_round: int) -> None:
        self._next[source] = next_round
        del self._rounds[source], self._decoded_at[source]
        self._advance(min(self._rounds.values(), default=0))

    def _advance(self, to: int) -> None:
        if to > self._round:
            self._round = to
            self._next = {source: at for source, at in self._next.items() if at > to}
