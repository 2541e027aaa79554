"""What has happened in a camera process, for its reports: the events of the original, and our own counters.

The threads of the process write here, the one that talks to the agent reads. It never decides anything.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streamfleet_broker.protocol.reference import sanitised
from streamfleet_broker.protocol.status import SourceCause, SourceStat
from streamfleet_worker.camera.buffer import Signal
from streamfleet_worker.camera.report import shown_source_state
from streamfleet_worker.camera.source import Capture
from streamfleet_worker.camera.stillness import FORGOTTEN

INFO, WARNING, ERROR = 20, 30, 40  # severities, as the original numbers them

_KEPT_EVENTS = 128  # of all sources together
_LATENCY_FRAMES = 64
_THROUGHPUT_WINDOW = 3.0  # seconds


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


class Journal:
    """The last events of a pipeline, in far less room than the original's 512: they travel each second.

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
        """An error of the pipeline, of this type, in the original's words."""
        payload = {"error_type": kind, "error_message": message, "error_context": context}
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


class Ledger:
    """One source's. Counters only rise. Any thread may call any method."""

    def __init__(
        self,
        reference: str | int,
        *,
        now: float,
        changed: Signal,
        source_id: int = 0,
        journal: Journal | None = None,
        finite: bool = False,
    ) -> None:
        self._lock = threading.Lock()
        self._changed = changed  # wakes the thread that reports
        self._journal = journal or Journal()
        self._source_id = source_id
        self._reference = sanitised(reference)
        self._finite = finite
        self._state = self._shown = "NOT_STARTED"
        self._paused = False
        self._over = False  # it is finite, and every frame of it has been dealt with
        self._connected = False
        self._properties: dict[str, Any] | None = None
        self._size = (0, 0)  # pixels, width and height
        self._reason = ""
        self._cause: SourceCause | None = None
        self._attempts = self._failures = 0
        self._dropped: Counter[str] = Counter()
        self._received = self._decoded = self._inferred = self._emitted = 0
        self._failing = False  # the last frame that came back from the engine came without an output
        self._last_frame_at: float | None = None  # monotonic seconds
        self._still_since: float | None = None  # monotonic seconds
        self._looked_at = now  # monotonic seconds
        self._began = now
        self._ticks: deque[float] = deque()  # monotonic seconds of what was emitted lately
        self._decoding: deque[float] = deque(maxlen=_LATENCY_FRAMES)  # seconds
        self._inference: deque[float] = deque(maxlen=_LATENCY_FRAMES)
        self._end_to_end: deque[float] = deque(maxlen=_LATENCY_FRAMES)
        self._latency: deque[float] = deque(maxlen=_LATENCY_FRAMES)

    # what the threads write -------------------------------------------------------------------------------

    def source_is(self, state: str) -> None:
        """The source is in another state of the original's."""
        with self._lock:
            self._state = state
            self._tell_state()

    def paused(self, paused: bool) -> None:
        """Nothing of it is emitted from now on, or it goes on."""
        with self._lock:
            self._paused = paused
            self._tell_state()

    def over(self) -> None:
        """It has come to its end, and so has the last of its frames."""
        with self._lock:
            self._over = True
            self._tell_state()

    def source_connected(self, capture: Capture) -> None:
        """The source is open."""
        with self._lock:
            created = None if self._properties is None else self._properties["timestamp_created"]
            self._properties = {
                "width": capture.width,
                "height": capture.height,
                "total_frames": capture.total_frames,
                "is_file": capture.finite,
                "fps": capture.fps,
                "is_reconnectable": not capture.finite,
                "timestamp_created": created or datetime.now().isoformat(),
            }
            self._connected = True
            self._attempts = 0
            self._reason = ""
            self._cause = None
        self._journal.well(self._source_id)

    def source_failed(self, reason: str, cause: SourceCause) -> None:
        """An attempt to open the source, or to go on reading it, failed."""
        with self._lock:
            lost, self._connected = self._connected, False
            self._attempts += 1
            self._failures += 1
            self._reason = reason
            self._cause = cause
        severity, event_type = _failure_event(cause, lost=lost)
        payload = {
            "error_type": "SourceLost",
            "error_message": reason,
            "error_context": "stream_consumer_thread",
            "source_id": self._source_id,
            "cause": cause,
        }
        self._note(severity, event_type, payload, "video_source.video_consumer")

    def consumption(self, event: str) -> None:
        """Reading has STARTED or FINISHED."""
        self._note(
            INFO,
            f"VIDEO_CONSUMPTION_{event}",
            {"source_id": self._source_id},
            "video_source.video_consumer",
        )

    def inference_failed(self, reason: str) -> None:
        """The engine gave nothing for a frame."""
        with self._lock:
            self._dropped["inference"] += 1
            if self._failing:  # one event for a row of failures, or they would push everything else out
                return
            self._failing = True
        self._journal.error("INFERENCE_ERROR", "InferenceFailed", reason, "inference_thread")

    def grabbed(self, now: float) -> None:
        """One more frame came from the source."""
        with self._lock:
            self._received += 1
            self._last_frame_at = now

    def decoded(self) -> None:
        """There is a picture of the frame that came last."""
        with self._lock:
            self._decoded += 1

    def seen(self, width: int, height: int) -> None:
        """A picture has this size in pixels."""
        self._size = (width, height)

    def looked(self, still_for: float | None, now: float) -> None:
        """The picture has not changed for so many seconds; None: it moves."""
        with self._lock:
            was_still = self._still_since is not None
            self._still_since = None if still_for is None else now - still_for
            self._looked_at = now
        if was_still != (still_for is not None):
            event = "PICTURE_MOVES" if was_still else "PICTURE_STANDS_STILL"
            severity = INFO if was_still else WARNING
            self._note(severity, event, {"source_id": self._source_id}, "video_source")
            self._changed.set()

    def dropped(self, cause: str, count: int = 1) -> None:
        """So many frames are not emitted, and why."""
        with self._lock:
            self._dropped[cause] += count

    def inferred(self, *, decoded_at: float, started_at: float, ready_at: float) -> None:
        """The engine is through with a frame; monotonic seconds."""
        with self._lock:
            self._inferred += 1
            self._failing = False
            self._decoding.append(started_at - decoded_at)
            self._inference.append(ready_at - started_at)
            self._end_to_end.append(ready_at - decoded_at)

    def emitted(self, now: float, *, latency: float) -> None:
        """The predictions of one more frame have left, so many seconds after its capture."""
        with self._lock:
            self._emitted += 1
            self._latency.append(latency)
            self._ticks.append(now)
            self._forget_ticks(now)

    # what is read -----------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The source's own, whether it is paused or not, as the original names it."""
        return self._state

    def source_stat(self, now: float) -> SourceStat:
        """The source with its counters, and its state as people see it, which knows of pauses too."""
        with self._lock:
            age = None if self._last_frame_at is None else round(now - self._last_frame_at, 3)
            latency = _mean(self._latency)
            still_for = self._still_for(now)
            return SourceStat(
                source_id=self._source_id,
                reference=self._reference,
                state=self._shown,
                received=self._received,
                decoded=self._decoded,
                inferred=self._inferred,
                emitted=self._emitted,
                dropped=dict(self._dropped),
                attempts=self._attempts,
                failures=self._failures,
                cause=self._cause,
                reason=self._reason or _stands_still(still_for),
                last_frame_age=age,
                fps=self._fps(now),
                width=self._size[0],
                height=self._size[1],
                latency=None if latency is None else round(latency, 4),
                still_for=None if still_for is None else round(still_for, 1),
            )

    @property
    def latencies(self) -> dict[str, Any]:
        """The original's latency report of one source."""
        with self._lock:
            return {
                "source_id": self._source_id,
                "frame_decoding_latency": _mean(self._decoding),
                "inference_latency": _mean(self._inference),
                "e2e_latency": _mean(self._end_to_end),
            }

    @property
    def properties(self) -> dict[str, Any] | None:
        """The original's properties of one source; None until it was open."""
        with self._lock:
            return None if self._properties is None else dict(self._properties)

    def _tell_state(self) -> None:
        previous = self._shown
        self._shown = shown_source_state(
            self._state, finite=self._finite, paused=self._paused, done=self._over
        )
        if self._shown != previous:
            states = {"previous_state": previous, "new_state": self._shown, "source_id": self._source_id}
            self._note(INFO, "SOURCE_STATE_UPDATE", states, "video_source")
            self._changed.set()

    def _note(self, severity: int, event_type: str, payload: dict[str, Any], context: str) -> None:
        self._journal.note(severity, event_type, payload, context, of=self._source_id)

    def _fps(self, now: float) -> float:
        self._forget_ticks(now)
        span = min(_THROUGHPUT_WINDOW, now - self._began)
        return round(len(self._ticks) / span, 3) if span > 0 else 0.0

    def _still_for(self, now: float) -> float | None:
        if self._still_since is None or now - self._looked_at > FORGOTTEN:
            return None
        return now - self._still_since

    def _forget_ticks(self, now: float) -> None:
        while self._ticks and self._ticks[0] <= now - _THROUGHPUT_WINDOW:
            self._ticks.popleft()


def _failure_event(cause: SourceCause, *, lost: bool) -> tuple[int, str]:
    """Severity and type: programs of the original look for errors to learn that a source cannot be opened."""
    if cause == "internal":
        return ERROR, "SOURCE_ERROR"
    if lost:
        return WARNING, "SOURCE_CONNECTION_LOST"
    return ERROR, "SOURCE_CONNECTION_ATTEMPT_FAILED"


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _stands_still(still_for: float | None) -> str:
    """In steps, because every other text is news that travels through the fleet."""
    if still_for is None:
        return ""
    if still_for < 60:
        return f"the picture has not changed for {still_for // 10 * 10:.0f} s"
    if still_for < 3600:
        return f"the picture has not changed for {still_for // 60:.0f} min"
    return f"the picture has not changed for {still_for // 3600:.0f} h"
