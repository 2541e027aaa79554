"""The broker's list of pipelines, looked at when something happened that matters, at most once a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from streamfleet_api.background import Background
from streamfleet_api.link import Link, LinkError
from streamfleet_broker.protocol.requests import FleetEvent, ListPipelines, PipelineView

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds between two looks at least
_WATCHED = 5.0  # seconds between two looks while somebody selects by labels, whose change is no event
_IDLE = 60.0  # seconds between two looks at most


class Roster:
    """A copy that may be a little old: what must be exact asks the broker itself."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._pipelines: dict[str, PipelineView] = {}
        self._changed = asyncio.Event()
        self._changed.set()
        self._watchers = 0
        self._seen: list[Callable[[Mapping[str, PipelineView]], None]] = []
        self._work = Background("roster", self._run)

    async def start(self) -> None:
        """Begin to look."""
        self._work.start()

    async def close(self) -> None:
        """Look no more."""
        await self._work.close()

    def when_seen(self, call: Callable[[Mapping[str, PipelineView]], None]) -> None:
        """Call this with the list after each look."""
        self._seen.append(call)

    def happened(self, events: Iterable[FleetEvent]) -> None:
        """Look soon when a pipeline has gone, and while somebody selects by labels whatever has changed.

        The list is long in a large fleet, and most events change nothing that is asked of it.
        """
        if self._watchers or any((event.subject, event.state) == ("pipeline", "gone") for event in events):
            self._changed.set()

    def labels(self, pipeline_id: str) -> Mapping[str, str] | None:
        """The labels of a pipeline, None when the broker has not listed it."""
        view = self._pipelines.get(pipeline_id)
        return None if view is None else view.labels

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While somebody selects by labels, look more often."""
        self._watchers += 1
        self._changed.set()
        try:
            yield
        finally:
            self._watchers -= 1

    async def look(self) -> None:
        """Ask the broker now. Raises: LinkError."""
        views = await self._link.ask(ListPipelines(), tuple[PipelineView, ...])
        self._pipelines = {view.pipeline_id: view for view in views}
        for call in self._seen:
            call(self._pipelines)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _WATCHED if self._watchers else _IDLE)
            self._changed.clear()
            try:
                await self.look()
            except LinkError as exc:
                logger.debug("the list of pipelines stays as it was: %s", exc)
                self._changed.set()
            await asyncio.sleep(_PAUSE)
