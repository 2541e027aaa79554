"""A cache of the broker's list of pipelines, refreshed after relevant events, at most once a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from streamfleet_api.broker_client import BrokerClient, BrokerClientError
from streamfleet_api.feeds.background_task import Background
from streamfleet_core.protocol.requests import FleetEvent, PipelineView

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # minimum seconds between two refreshes
# Seconds between two refreshes while a subscriber selects by labels, because label changes are not events.
_WATCHED = 5.0
_IDLE = 60.0  # maximum seconds between two refreshes


class PipelineCache:
    """A copy that may be slightly outdated. What must be exact asks the broker."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._pipelines: dict[str, PipelineView] = {}
        self._changed = asyncio.Event()
        self._changed.set()
        self._watchers = 0
        self._listeners: list[Callable[[Mapping[str, PipelineView]], None]] = []
        self._work = Background("pipelines", self._run)

    async def start(self) -> None:
        """Start refreshing."""
        self._work.start()

    async def close(self) -> None:
        """Stop refreshing."""
        await self._work.close()

    def on_refresh(self, call: Callable[[Mapping[str, PipelineView]], None]) -> None:
        """Call `call` with the list after each refresh."""
        self._listeners.append(call)

    def apply_events(self, events: Iterable[FleetEvent]) -> None:
        """Refresh soon after a pipeline is gone; while a subscriber selects by labels, after every event.

        The list is long in a large fleet, and most events change nothing that callers need.
        """
        if self._watchers or any((event.subject, event.state) == ("pipeline", "gone") for event in events):
            self._changed.set()

    def labels(self, pipeline_id: str) -> Mapping[str, str] | None:
        """The labels of a pipeline; None if the list does not have it."""
        view = self._pipelines.get(pipeline_id)
        return None if view is None else view.labels

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Refresh more often while a subscriber selects by labels."""
        self._watchers += 1
        self._changed.set()
        try:
            yield
        finally:
            self._watchers -= 1

    async def refresh(self) -> None:
        """Refresh now. Raises: BrokerClientError."""
        views = await self._broker.pipelines()
        self._pipelines = {view.pipeline_id: view for view in views}
        for call in self._listeners:
            call(self._pipelines)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _WATCHED if self._watchers else _IDLE)
            self._changed.clear()
            try:
                await self.refresh()
            except BrokerClientError as exc:
                logger.debug("the list of pipelines stays as it was: %s", exc)
                self._changed.set()
            await asyncio.sleep(_PAUSE)
