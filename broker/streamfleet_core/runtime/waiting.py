"""Waits of asyncio that end with an event or with a time."""

from __future__ import annotations

import asyncio


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait until the event is set, or for so many seconds. Returns whether it was set.

    Not by `asyncio.wait_for`: before Python 3.12 that drops a cancellation that comes as the event is set,
    and then whoever cancelled the task waits for its end for ever.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        done, _ = await asyncio.wait([waiting], timeout=seconds)
    finally:
        waiting.cancel()
    return bool(done)
