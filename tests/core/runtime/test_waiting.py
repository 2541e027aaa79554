"""Waits that end with an event or with a time, and with a cancellation whenever it comes."""

from __future__ import annotations

import asyncio

import pytest

from streamfleet_core.runtime.waiting import is_set_within
from tests.fakes.patience import PATIENCE


async def test_an_event_ends_the_wait() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(is_set_within(event, PATIENCE))
    await asyncio.sleep(0)

    event.set()

    assert await waiting


async def test_without_an_event_the_time_ends_it() -> None:
    assert not await is_set_within(asyncio.Event(), 0.01)


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_ends_it_also_when_the_event_has_just_been_set(turns: int) -> None:
    event = asyncio.Event()

    async def wait_twice() -> None:
        await is_set_within(event, PATIENCE)
        event.clear()
        await is_set_within(event, PATIENCE)

    waiting = asyncio.create_task(wait_twice())
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=PATIENCE)

    assert waiting.cancelled()
