"""The last events of a pipeline, for Roboflow's status report.

The threads of a camera process write; the thread that reports to the agent reads.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streamfleet_core.protocol.source_reference import shown_reason

INFO, WARNING, ERROR = 20, 30, 40  # severities, as Roboflow numbers them

_KEPT_EVENTS = 128  # of all sources together


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int  # in order of recording, over all sources
    period: int  # of its row, when it was recorded
    event: dict[str, Any]

    def is_repeat_of(self, other: dict[str, Any]) -> bool:
        """Whether it is the same event, apart from the time."""
        return all(self.event[key] == other[key] for key in ("event_type", "severity", "payload", "context"))


@dataclass(slots=True)
class _Row:
    """The events of one source, or of the pipeline itself."""

    period: int = 0  # +1 at each recovery
    entries: deque[_Entry] = field(default_factory=deque)


class EventJournal:
    """The last events of a pipeline; fewer than Roboflow's 512, as they are sent each second.

    An event that repeats without a recovery in between is one entry with its last time, the number of `times`
    and `since` when. If the journal is full, the source with the most entries loses its oldest, so that a
    source that fails repeatedly does not displace the events of the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._rows: dict[int | None, _Row] = {}  # by source; None: of the pipeline

    def record(
        self, severity: int, event_type: str, payload: dict[str, Any], context: str, *, of: int | None
    ) -> None:
        """Record an event of a source or of the pipeline."""
        event = {
            "timestamp": datetime.now().isoformat(),
            "severity": severity,
            "event_type": event_type,
            "payload": payload,
            "context": context,
        }
        with self._lock:
            row = self._rows.setdefault(of, _Row())
            for entry in [
                entry for entry in row.entries if entry.period == row.period and entry.is_repeat_of(event)
            ]:
                row.entries.remove(entry)
                event["times"] = entry.event.get("times", 1) + 1
                event["since"] = entry.event.get("since", entry.event["timestamp"])
            row.entries.append(_Entry(next(self._numbers), row.period, event))
            if sum(len(other.entries) for other in self._rows.values()) > _KEPT_EVENTS:
                max(self._rows.values(), key=lambda other: len(other.entries)).entries.popleft()

    def recovered(self, of: int) -> None:
        """Record that the source works again: later events are not merged with earlier ones."""
        with self._lock:
            self._rows.setdefault(of, _Row()).period += 1

    def error(self, event_type: str, kind: str, message: str, context: str) -> None:
        """Record an error of the pipeline with Roboflow's payload."""
        payload = {"error_type": kind, "error_message": shown_reason(message), "error_context": context}
        self.record(ERROR, event_type, payload, "inference_pipeline", of=None)

    def inference_thread(self, event: str) -> None:
        """Record that inference has STARTED or FINISHED."""
        self.record(INFO, f"INFERENCE_THREAD_{event}", {}, "inference_pipeline", of=None)

    def sink_failed(self, sink: str, reason: str) -> None:
        """Record that a sink has started to fail."""
        self.error(
            "INFERENCE_RESULTS_DISPATCHING_ERROR",
            "SinkFailed",
            f"{sink}: {reason}",
            "inference_results_dispatching",
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events, oldest first."""
        with self._lock:
            entries = [entry for row in self._rows.values() for entry in row.entries]
        return [entry.event for entry in sorted(entries, key=lambda entry: entry.number)]
