"""What a pipeline says of itself while it runs: the events of its report, handed to whom it may concern."""

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
    """How bad it is, as the original numbers it."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """One event, with the original's names."""

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
        self._waiting: queue.SimpleQueue[StatusUpdate] = queue.SimpleQueue()  # has room for every one

    def note(
        self, severity: int, event_type: str, payload: dict[str, Any], context: str, *, of: int | None
    ) -> None:
        """It happened just now, to a source or to the pipeline."""
        super().note(severity, event_type, payload, context, of=of)
        if self._handlers:
            now = datetime.now()
            self._waiting.put(StatusUpdate(now, UpdateSeverity(severity), event_type, payload, context))
            self._changed.set()

    def deliver(self) -> None:
        """Hand on what has happened since the last call."""
        while not self._waiting.empty():
            update = self._waiting.get()
            for handler in self._handlers:
                _tell(handler, update)


def _tell(handler: StatusUpdateHandler, update: StatusUpdate) -> None:
    try:
        handler(update)
    except Exception:
        logger.exception("a status update handler failed")
