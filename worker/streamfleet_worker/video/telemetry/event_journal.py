"""The last events of a pipeline, as Roboflow's status report shows them.

The threads of a camera process write here, the one that talks to the agent reads.
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
    number: int  # of all entries, in the order of their coming
    era: int  # of its row
    event: dict[str, Any]

    def tells(self, other: dict[str, Any]) -> bool:
        """The same happened."""
        return all(self.event[key] == other[key] for key in ("event_type", "severity", "payload", "context"))


@dataclass(slots=True)
class _Row:
    """What happened to one source, or to the pipeline itself."""

    era: int = 0  # +1 whenever all is well again
    entries: deque[_Entry] = field(default_factory=deque)


class EventJournal:
    """The last events of a pipeline, in far less room than Roboflow's 512: they travel each second.

    What happens again and again while nothing has become well is one entry: its last time, how many `times`
    and `since` when. Where there is no room any more, the source with most entries loses its oldest: one that
    comes and goes does not push the others' out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._rows: dict[int | None, _Row] = {}  # by source; None: the pipeline's

    def note(
        self, severity: int, event_type: str, payload: dict[str, Any], context: str, *, of: int | None
    ) -> None:
        """It happened just now, to a source or to the pipeline."""
        event = {
            "timestamp": datetime.now().isoformat(),
            "severity": severity,
            "event_type": event_type,
            "payload": payload,
            "context": context,
        }
        with self._lock:
            row = self._rows.setdefault(of, _Row())
            for entry in [entry for entry in row.entries if entry.era == row.era and entry.tells(event)]:
                row.entries.remove(entry)
                event["times"] = entry.event.get("times", 1) + 1
                event["since"] = entry.event.get("since", entry.event["timestamp"])
            row.entries.append(_Entry(next(self._numbers), row.era, event))
            if sum(len(other.entries) for other in self._rows.values()) > _KEPT_EVENTS:
                max(self._rows.values(), key=lambda other: len(other.entries)).entries.popleft()

    def well(self, of: int) -> None:
        """The source works again: what happens to it from here on is another story."""
        with self._lock:
            self._rows.setdefault(of, _Row()).era += 1

    def error(self, event_type: str, kind: str, message: str, context: str) -> None:
        """An error of the pipeline, of this type, in Roboflow's words."""
        payload = {"error_type": kind, "error_message": shown_reason(message), "error_context": context}
        self.note(ERROR, event_type, payload, "inference_pipeline", of=None)

    def inference_thread(self, event: str) -> None:
        """Inference has STARTED or FINISHED."""
        self.note(INFO, f"INFERENCE_THREAD_{event}", {}, "inference_pipeline", of=None)

    def sink_failed(self, sink: str, reason: str) -> None:
        """A sink began to refuse what it is sent."""
        self.error(
            "INFERENCE_RESULTS_DISPATCHING_ERROR",
            "SinkFailed",
            f"{sink}: {reason}",
            "inference_results_dispatching",
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        """Oldest first."""
        with self._lock:
            entries = [entry for row in self._rows.values() for entry in row.entries]
        return [entry.event for entry in sorted(entries, key=lambda entry: entry.number)]
