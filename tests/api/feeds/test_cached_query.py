"""An answer that is shared for a moment: one question for all, and never older than one's own change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from streamfleet_api.feeds.cached_query import LIFETIME, REFRESH_AFTER, CachedQuery


class Source:
    """Something that is asked, counts how often, and answers when it is told to."""

    def __init__(self) -> None:
        self.changes = 0
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.now = 0.0

    async def ask(self) -> int:
        """How often it was asked."""
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        return number

    def recent(self) -> CachedQuery[int]:
        """What is under test."""
        return CachedQuery(self.ask, lambda: self.changes, clock=lambda: self.now)


async def test_many_who_ask_at_once_ask_once() -> None:
    source = Source()
    recent = source.recent()

    assert await asyncio.gather(*(recent.get() for _ in range(50))) == [1] * 50
    assert recent.known() == 1


async def test_an_answer_is_forgotten_after_its_time() -> None:
    source = Source()
    recent = source.recent()
    await recent.get()

    source.now += LIFETIME
    assert recent.known() == 1
    source.now += 0.001

    assert recent.known() is None
    assert await recent.get() == 2


async def test_an_answer_that_is_asked_for_again_and_again_is_renewed_and_nobody_waits_for_it() -> None:
    source = Source()
    recent = source.recent()
    await recent.get()
    source.now += REFRESH_AFTER + 0.02
    source.may_answer.clear()

    while_it_is_renewed = [await recent.get() for _ in range(5)]
    source.may_answer.set()
    while recent.known() == 1:
        await asyncio.sleep(0)

    assert while_it_is_renewed == [1] * 5
    assert (recent.known(), source.asked) == (2, 2)


async def test_whoever_asks_after_a_change_of_ours_gets_an_answer_from_after_it() -> None:
    source = Source()
    recent = source.recent()
    await recent.get()
    source.changes += 1

    assert recent.known() is None
    assert await recent.get() == 2


async def test_a_question_that_is_under_way_when_something_changes_is_not_for_those_who_ask_later() -> None:
    source = Source()
    recent = source.recent()
    source.may_answer.clear()
    earlier = asyncio.create_task(recent.get())
    await asyncio.sleep(0)
    source.changes += 1
    later = asyncio.create_task(recent.get())
    await asyncio.sleep(0)

    source.may_answer.set()

    assert (await earlier, await later) == (1, 2)
    assert recent.known() == 2


async def test_a_failure_is_for_those_who_waited_and_the_next_asks_again() -> None:
    answers: Iterator[ConnectionError | int] = iter([ConnectionError("gone"), 7])

    async def ask() -> int:
        answer = next(answers)
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    recent = CachedQuery(ask, lambda: 0)

    for found in await asyncio.gather(recent.get(), recent.get(), return_exceptions=True):
        assert isinstance(found, ConnectionError)
    assert await recent.get() == 7


async def test_whoever_gives_up_leaves_the_answer_to_the_others() -> None:
    source = Source()
    recent = source.recent()
    source.may_answer.clear()
    impatient, patient = asyncio.create_task(recent.get()), asyncio.create_task(recent.get())
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient

    source.may_answer.set()

    assert await patient == 1
    assert source.asked == 1
