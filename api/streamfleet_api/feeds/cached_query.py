"""A cache for one query to the broker, shared by all callers within a moment.

fetched --REFRESH_AFTER, at the next call--> fetched again in the background --LIFETIME--> callers wait

An answer is never older than the last change made through this api, so a client that changes something and
then reads sees its change. Changes by others are visible after `LIFETIME` at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

REFRESH_AFTER = 0.1  # seconds
LIFETIME = 0.5  # seconds
_SHARE = 5  # times its own duration that a query is not repeated, to spare the broker of a large fleet

T = TypeVar("T")


@dataclass(slots=True)
class _Answer(Generic[T]):
    value: T
    changes: int  # made through this api when the query started
    started: float
    refresh_at: float


@dataclass(slots=True)
class _Fetch(Generic[T]):
    changes: int
    task: asyncio.Task[T]


class CachedQuery(Generic[T]):
    """One query, run again once its last answer is outdated."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        changes: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changes` returns the number of changes made through this api."""
        self._ask = ask
        self._changes = changes
        self._clock = clock
        self._answer: _Answer[T] | None = None
        self._pending: _Fetch[T] | None = None

    def known(self) -> T | None:
        """Return the answer if it is still valid, without waiting."""
        answer, now = self._answer, self._clock()
        if answer is None or answer.changes != self._changes() or now > answer.started + LIFETIME:
            return None
        if now > answer.refresh_at and self._pending is None:
            self._begin()
        return answer.value

    async def get(self) -> T:
        """Return the answer, waiting for it if necessary. Raises: what `ask` raises."""
        known = self.known()
        if known is not None:
            return known
        pending = self._pending
        if pending is None or pending.changes != self._changes():
            # A query that started before a change may return the state before that change.
            pending = self._begin()
        return await asyncio.shield(pending.task)

    def _begin(self) -> _Fetch[T]:
        changes = self._changes()
        task = asyncio.ensure_future(self._fetch(changes, self._clock()))
        task.add_done_callback(self._end)
        self._pending = _Fetch(changes, task)
        return self._pending

    async def _fetch(self, changes: int, started: float) -> T:
        value = await self._ask()
        if self._answer is None or self._answer.started < started:
            took = self._clock() - started
            self._answer = _Answer(value, changes, started, started + max(REFRESH_AFTER, _SHARE * took))
        return value

    def _end(self, task: asyncio.Task[T]) -> None:
        if self._pending is not None and self._pending.task is task:
            self._pending = None
        if not task.cancelled():
            task.exception()  # mark it as retrieved: `get` raises it
