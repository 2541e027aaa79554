"""Waits of asyncio for an event, with a timeout."""

from __future__ import annotations

import asyncio


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait up to `seconds` for the event, and return whether it was set.

    Without `asyncio.wait_for`: before Python 3.12 it drops a cancellation that arrives as the event is set,
    and the caller that cancelled the task waits for its end forever.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        done, _ = await asyncio.wait([waiting], timeout=seconds)
    finally:
        waiting.cancel()
    return bool(done)
