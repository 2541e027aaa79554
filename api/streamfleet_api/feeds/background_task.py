"""Background tasks that run as long as the api."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds before a crashed task restarts, or is cancelled again


class Background:
    """One task, restarted when a bug ends it."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def close(self) -> None:
        """Cancel the task and wait for its end."""
        # Before Python 3.12 `wait_for` swallows a cancellation when what it waits for is there: ask again.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_PAUSE)

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
            except Exception:
                logger.exception("%s: crashed, restarting", self._name)
            await asyncio.sleep(_PAUSE)
