"""The metrics of one source: counters, latencies and state, for the reports of a camera process.

The threads of the process write; the thread that reports to the agent reads. It makes no decisions.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streamfleet_core.protocol.source_reference import sanitised, shown_reason
from streamfleet_core.protocol.status import SourceCause, SourceStat
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.sources.buffer import Signal
from streamfleet_worker.video.sources.freeze_detector import FORGOTTEN
from streamfleet_worker.video.telemetry.event_journal import ERROR, INFO, WARNING, EventJournal
from streamfleet_worker.video.telemetry.status_report import shown_source_state

_NORMAL_WAIT = 3.0  # seconds without a picture that need no explanation
_LATENCY_FRAMES = 64
_THROUGHPUT_WINDOW = 3.0  # seconds


@dataclass(slots=True, kw_only=True)
class _Counters:
    """Counters. They only increase, except `attempts`."""

    received: int = 0
    decoded: int = 0
    inferred: int = 0
    emitted: int = 0
    objects: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by cause
    attempts: int = 0  # failed attempts to open the source since the last success
    failures: int = 0


def _window() -> deque[float]:
    return deque(maxlen=_LATENCY_FRAMES)


@dataclass(slots=True, kw_only=True)
class _LatencyWindows:
    """The latencies of the last frames in seconds, and when they were emitted."""

    began: float  # monotonic seconds
    decoding: deque[float] = field(default_factory=_window)
    inference: deque[float] = field(default_factory=_window)
    end_to_end: deque[float] = field(default_factory=_window)
    # From the capture until the predictions were sent.
    emission: deque[float] = field(default_factory=_window)
    ticks: deque[float] = field(default_factory=deque)  # monotonic seconds of the last emissions

    def inferred(self, *, decoded_at: float, started_at: float, ready_at: float) -> None:
        self.decoding.append(started_at - decoded_at)
        self.inference.append(ready_at - started_at)
        self.end_to_end.append(ready_at - decoded_at)

    def emitted(self, now: float, latency: float) -> None:
        self.emission.append(latency)
        self.ticks.append(now)
        self._forget_ticks(now)

    def fps(self, now: float) -> float:
        """Frames emitted per second, over the last three seconds."""
        self._forget_ticks(now)
        span = min(_THROUGHPUT_WINDOW, now - self.began)
        return round(len(self.ticks) / span, 3) if span > 0 else 0.0

    def _forget_ticks(self, now: float) -> None:
        while self.ticks and self.ticks[0] <= now - _THROUGHPUT_WINDOW:
            self.ticks.popleft()


@dataclass(slots=True, kw_only=True)
class _SourceState:
    """The current state of the source and its last picture. Times are monotonic seconds."""

    finite: bool
    waiting_since: float
    freeze_checked_at: float
    state: str = "NOT_STARTED"  # of the source itself, in Roboflow's words
    shown: str = "NOT_STARTED"  # as shown to users, with pauses
    paused: bool = False
    over: bool = False  # it is finite, and all its frames were processed
    connected: bool = False
    final: bool = False  # its last attempt failed, and retrying does not help
    failing: bool = False  # inference of the last frame failed
    reason: str = ""
    cause: SourceCause | None = None
    waiting_for: str = ""  # before the first picture
    timeout: float = 0.0  # seconds to wait for a picture
    properties: dict[str, Any] | None = None
    size: tuple[int, int] = (0, 0)  # pixels, width and height
    last_frame_at: float | None = None
    frozen_since: float | None = None
    decoder: str = ""
    decoder_note: str = ""

    def is_overdue(self, now: float) -> bool:
        """Whether opening it takes longer than usual."""
        return self.state == "INITIALISING" and now - self.waiting_since >= _NORMAL_WAIT

    def frozen_for(self, now: float) -> float | None:
        """Seconds for which the picture has not changed; None if it changes, or was not checked recently."""
        if self.frozen_since is None or now - self.freeze_checked_at > FORGOTTEN:
            return None
        return now - self.frozen_since

    def reason_at(self, now: float) -> str:
        """Reason why there is no usable picture; "" if there is one."""
        return self.reason or self._missing_reason(now) or _frozen_reason(self.frozen_for(now))

    def _missing_reason(self, now: float) -> str:
        """A reason for states that last unusually long."""
        if self.is_overdue(now) and self.waiting_for:
            return f"{self.waiting_for}, for {_in_steps(now - self.waiting_since)}"
        silence = 0.0 if self.last_frame_at is None else now - self.last_frame_at
        if self.state == "RUNNING" and not self.finite and silence > max(_NORMAL_WAIT, self.timeout / 2):
            return f"no frame for {_in_steps(silence)}"
        return ""


class SourceMetrics:
    """The metrics of one source. Any thread may call any method."""

    def __init__(
        self,
        reference: str | int,
        *,
        now: float,
        changed: Signal,
        source_id: int = 0,
        journal: EventJournal | None = None,
        finite: bool = False,
    ) -> None:
        self._lock = threading.Lock()  # guards the three records
        self._changed = changed  # wakes the thread that reports
        self._journal = journal or EventJournal()
        self._source_id = source_id
        self._reference = sanitised(reference)
        self._counters = _Counters()
        self._windows = _LatencyWindows(began=now)
        self._source = _SourceState(finite=finite, waiting_since=now, freeze_checked_at=now)

    # writing ---------------------------------------------------------------------------------------------

    def source_is(self, state: str) -> None:
        """Set the state of the source, one of Roboflow's."""
        with self._lock:
            if state == "INITIALISING":
                self._source.waiting_since = time.monotonic()
            self._source.state = state
            self._update_shown_state()

    def set_waiting_for(self, what: str) -> None:
        """Say what the source waits for until its first picture."""
        with self._lock:
            self._source.waiting_for = what

    def become_finite(self) -> None:
        """Treat the source as a file."""
        with self._lock:
            self._source.finite = True
            self._update_shown_state()

    def paused(self, paused: bool) -> None:
        """Record that it was paused or resumed."""
        with self._lock:
            self._source.paused = paused
            self._update_shown_state()

    def over(self) -> None:
        """Record that its last frame was processed."""
        with self._lock:
            self._source.over = True
            self._update_shown_state()

    def source_connected(self, capture: Capture) -> None:
        """Record that the source is open."""
        with self._lock:
            created = (
                None if self._source.properties is None else self._source.properties["timestamp_created"]
            )
            self._source.properties = {
                "width": capture.width,
                "height": capture.height,
                "total_frames": capture.total_frames,
                "is_file": capture.finite,
                "fps": capture.fps,
                "is_reconnectable": not capture.finite,
                "timestamp_created": created or datetime.now().isoformat(),
            }
            self._source.connected = True
            self._source.final = False
            self._counters.attempts = 0
            self._source.reason = ""
            self._source.cause = None
        self._journal.recovered(self._source_id)

    def source_ended(self, remark: str) -> None:
        """Record the end of the data. `remark`: what was wrong with it, or ""."""
        with self._lock:
            self._source.reason = remark
        if remark:
            payload = {"source_id": self._source_id, "message": remark}
            self._record(WARNING, "VIDEO_DAMAGED", payload, "video_source.video_consumer")
        self.source_is("ENDED")

    def source_failed(self, reason: str, cause: SourceCause, *, final: bool = False) -> None:
        """Record a failure to open or read the source. `final`: retrying does not help."""
        with self._lock:
            self._source.final = final
            lost, self._source.connected = self._source.connected, False
            self._counters.attempts += 1
            self._counters.failures += 1
            self._source.reason = reason
            self._source.cause = cause
        severity, event_type = _failure_event(cause, lost=lost)
        payload = {
            "error_type": "SourceLost",
            "error_message": reason,
            "error_context": "stream_consumer_thread",
            "source_id": self._source_id,
            "cause": cause,
        }
        self._record(severity, event_type, payload, "video_source.video_consumer")

    def decoder_is(self, decoder: str, note: str) -> None:
        """Set the decoder in use. `note`: why it is not the desired one, or was started again; "" if fine."""
        note = shown_reason(note)
        with self._lock:
            self._source.decoder, self._source.decoder_note = decoder, note
        if note:
            payload = {"source_id": self._source_id, "decoder": decoder, "error_message": note}
            self._record(WARNING, "DECODER_CHANGED", payload, "video_source.video_consumer")
        self._changed.set()

    def consumption(self, event: str) -> None:
        """Record that reading has STARTED or FINISHED."""
        self._record(
            INFO,
            f"VIDEO_CONSUMPTION_{event}",
            {"source_id": self._source_id},
            "video_source.video_consumer",
        )

    def inference_failed(self, reason: str) -> None:
        """Record that inference of a frame failed."""
        with self._lock:
            self._counters.dropped["inference"] += 1
            if self._source.failing:  # one event for a series of failures, so that others are not displaced
                return
            self._source.failing = True
        self._journal.error("INFERENCE_ERROR", "InferenceFailed", reason, "inference_thread")

    def grabbed(self, now: float, timeout: float = 0.0) -> None:
        """Count a frame from the source. `timeout`: seconds to wait for the next one."""
        with self._lock:
            self._source.timeout = timeout
            self._counters.received += 1
            self._source.last_frame_at = now

    def decoded(self) -> None:
        """Count a decoded picture."""
        with self._lock:
            self._counters.decoded += 1

    def set_size(self, width: int, height: int) -> None:
        """Set the size of the picture, in pixels."""
        self._source.size = (width, height)

    def freeze_checked(self, frozen_for: float | None, now: float) -> None:
        """Record for how many seconds the picture has not changed; None if it changes."""
        with self._lock:
            was_frozen = self._source.frozen_since is not None
            self._source.frozen_since = None if frozen_for is None else now - frozen_for
            self._source.freeze_checked_at = now
        if was_frozen != (frozen_for is not None):
            event = "PICTURE_MOVES" if was_frozen else "PICTURE_STANDS_STILL"
            severity = INFO if was_frozen else WARNING
            self._record(severity, event, {"source_id": self._source_id}, "video_source")
            self._changed.set()

    def dropped(self, cause: str, count: int = 1) -> None:
        """Count frames that are not emitted, by cause."""
        with self._lock:
            self._counters.dropped[cause] += count

    def inferred(self, *, decoded_at: float, started_at: float, ready_at: float) -> None:
        """Count an inferred frame. Times are monotonic seconds."""
        with self._lock:
            self._counters.inferred += 1
            self._source.failing = False
            self._windows.inferred(decoded_at=decoded_at, started_at=started_at, ready_at=ready_at)

    def emitted(self, now: float, *, latency: float, objects: int = 0) -> None:
        """Count an emitted frame with so many objects. `latency`: seconds since its capture."""
        with self._lock:
            self._counters.emitted += 1
            self._counters.objects += objects
            self._windows.emitted(now, latency)

    # reading ----------------------------------------------------------------------------------------------

    def is_overdue(self, now: float) -> bool:
        """Whether opening it takes longer than usual."""
        return self._source.is_overdue(now)

    @property
    def final(self) -> bool:
        """Whether its last attempt failed, and retrying does not help."""
        return self._source.final

    @property
    def timeout(self) -> float:
        """Seconds of silence after which it counts as lost; 0: no limit."""
        return self._source.timeout

    @property
    def state(self) -> str:
        """The state of the source itself, regardless of pauses, in Roboflow's words."""
        return self._source.state

    def source_stat(self, now: float) -> SourceStat:
        """The source with its counters, and its state as shown to users, with pauses."""
        with self._lock:
            age = None if self._source.last_frame_at is None else round(now - self._source.last_frame_at, 3)
            latency = _mean(self._windows.emission)
            frozen_for = self._source.frozen_for(now)
            return SourceStat(
                source_id=self._source_id,
                reference=self._reference,
                state=self._source.shown,
                received=self._counters.received,
                decoded=self._counters.decoded,
                inferred=self._counters.inferred,
                emitted=self._counters.emitted,
                dropped=dict(self._counters.dropped),
                attempts=self._counters.attempts,
                failures=self._counters.failures,
                cause=self._source.cause,
                reason=self._source.reason_at(now),
                last_frame_age=age,
                fps=self._windows.fps(now),
                width=self._source.size[0],
                height=self._source.size[1],
                latency=None if latency is None else round(latency, 4),
                frozen_for=None if frozen_for is None else round(frozen_for, 1),
                decoder=self._source.decoder,
                decoder_note=self._source.decoder_note,
                objects=self._counters.objects,
            )

    @property
    def latencies(self) -> dict[str, Any]:
        """Roboflow's latency report of one source."""
        with self._lock:
            return {
                "source_id": self._source_id,
                "frame_decoding_latency": _mean(self._windows.decoding),
                "inference_latency": _mean(self._windows.inference),
                "e2e_latency": _mean(self._windows.end_to_end),
            }

    @property
    def properties(self) -> dict[str, Any] | None:
        """Roboflow's properties of one source; None before it was opened."""
        with self._lock:
            return None if self._source.properties is None else dict(self._source.properties)

    def _update_shown_state(self) -> None:
        previous = self._source.shown
        self._source.shown = shown_source_state(
            self._source.state, finite=self._source.finite, paused=self._source.paused, done=self._source.over
        )
        if self._source.shown != previous:
            states = {
                "previous_state": previous,
                "new_state": self._source.shown,
                "source_id": self._source_id,
            }
            self._record(INFO, "SOURCE_STATE_UPDATE", states, "video_source")
            self._changed.set()

    def _record(self, severity: int, event_type: str, payload: dict[str, Any], context: str) -> None:
        self._journal.record(severity, event_type, payload, context, of=self._source_id)


def _failure_event(cause: SourceCause, *, lost: bool) -> tuple[int, str]:
    """Severity and type. Programs written for Roboflow look for errors to detect an unavailable source."""
    if cause == "internal":
        return ERROR, "SOURCE_ERROR"
    if lost:
        return WARNING, "SOURCE_CONNECTION_LOST"
    return ERROR, "SOURCE_CONNECTION_ATTEMPT_FAILED"


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _frozen_reason(frozen_for: float | None) -> str:
    """A reason that changes in steps, because each new text is sent through the fleet."""
    return "" if frozen_for is None else f"the picture has not changed for {_in_steps(frozen_for, 10)}"


def _in_steps(seconds: float, step: int = 5) -> str:
    """Format seconds in coarse steps, so that texts with it change rarely."""
    if seconds < 60:
        return f"{seconds // step * step or seconds:.0f} s"
    return f"{seconds // 60:.0f} min" if seconds < 3600 else f"{seconds // 3600:.0f} h"
