"""Status updates of a running pipeline: recorded for its report, and passed to handlers."""

from __future__ import annotations

import enum
import logging
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from streamfleet_worker.video.sources.buffer import Signal
from streamfleet_worker.video.telemetry.event_journal import EventJournal

logger = logging.getLogger(__name__)


class UpdateSeverity(enum.IntEnum):
    """The severity, with Roboflow's numbers."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """One event, with Roboflow's names."""

    timestamp: datetime  # local time, without a zone
    severity: UpdateSeverity
    event_type: str
    payload: dict[str, Any]
    context: str


StatusUpdateHandler = Callable[[StatusUpdate], None]


class Updates(EventJournal):
    """The journal of one pipeline. Any thread may write; handlers are called by the pipeline's own thread."""

    def __init__(self, handlers: Sequence[StatusUpdateHandler], *, changed: Signal) -> None:
        super().__init__()
        self._handlers = tuple(handlers)
        self._changed = changed
        # Unbounded; `deliver` empties it.
        self._waiting: queue.SimpleQueue[StatusUpdate] = queue.SimpleQueue()

    def record(
        self, severity: int, event_type: str, payload: dict[str, Any], context: str, *, of: int | None
    ) -> None:
        """Record an event of a source or of the pipeline, and queue it for the handlers."""
        super().record(severity, event_type, payload, context, of=of)
        if self._handlers:
            now = datetime.now()
            self._waiting.put(StatusUpdate(now, UpdateSeverity(severity), event_type, payload, context))
            self._changed.set()

    def deliver(self) -> None:
        """Pass the updates since the last call to the handlers."""
        while not self._waiting.empty():
            update = self._waiting.get()
            for handler in self._handlers:
                _notify(handler, update)


def _notify(handler: StatusUpdateHandler, update: StatusUpdate) -> None:
    try:
        handler(update)
    except Exception:
        logger.exception("a status update handler failed")
