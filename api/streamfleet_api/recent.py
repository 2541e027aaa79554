"""An answer of the broker's for all who ask the same within a moment.

asked for --RENEWED later, when somebody asks--> asked for again, in passing --LIFETIME--> waited for

It is never older than the last change that this api itself made: whoever changes something here and looks,
sees it. Against the changes of others it is as old as `LIFETIME` at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

RENEWED = 0.1  # seconds
LIFETIME = 0.5  # seconds
_SHARE = 5  # times as long as it takes it is let be, so that a large fleet does not keep the broker busy

T = TypeVar("T")


@dataclass(slots=True)
class _Answer(Generic[T]):
    value: T
    changes: int  # that had been made when it was asked for
    asked: float
    renewed: float  # when it is time to ask again


@dataclass(slots=True)
class _Question(Generic[T]):
    changes: int
    task: asyncio.Task[T]


class Recent(Generic[T]):
    """One question, asked again when its last answer does not hold any more."""

    def __init__(self, ask: Callable[[], Awaitable[T]], changes: Callable[[], int]) -> None:
        """`changes` counts those that this api has made."""
        self._ask = ask
        self._changes = changes
        self._answer: _Answer[T] | None = None
        self._question: _Question[T] | None = None

    def known(self) -> T | None:
        """The answer, where nobody must wait for it."""
        answer, now = self._answer, time.monotonic()
        if answer is None or answer.changes != self._changes() or now > answer.asked + LIFETIME:
            return None
        if now > answer.renewed and self._question is None:
            self._begin()
        return answer.value

    async def get(self) -> T:
        """The answer. Raises: what asking raises."""
        known = self.known()
        if known is not None:
            return known
        question = self._question
        if question is None or question.changes != self._changes():
            # One that is under way since before a change may be answered as of before it.
            question = self._begin()
        return await asyncio.shield(question.task)

    def _begin(self) -> _Question[T]:
        changes = self._changes()
        task = asyncio.ensure_future(self._learn(changes, time.monotonic()))
        task.add_done_callback(self._end)
        self._question = _Question(changes, task)
        return self._question

    async def _learn(self, changes: int, asked: float) -> T:
        value = await self._ask()
        if self._answer is None or self._answer.asked < asked:
            took = time.monotonic() - asked
            self._answer = _Answer(value, changes, asked, asked + max(RENEWED, _SHARE * took))
        return value

    def _end(self, task: asyncio.Task[T]) -> None:
        if self._question is not None and self._question.task is task:
            self._question = None
        if not task.cancelled():
            task.exception()  # whoever waited has it
