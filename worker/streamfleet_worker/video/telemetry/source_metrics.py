"""What has happened to one source: its counters, its latencies and its state, for the reports of a camera.

The threads of the process write here, the one that talks to the agent reads. It never decides anything.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.status import SourceCause, SourceStat
from streamfleet_worker.video.sources.buffer import Signal
from streamfleet_worker.video.sources.capture import Capture
from streamfleet_worker.video.sources.freeze_detector import FORGOTTEN
from streamfleet_worker.video.telemetry.event_journal import ERROR, INFO, WARNING, EventJournal
from streamfleet_worker.video.telemetry.status_report import shown_source_state

_UNREMARKABLE = 3.0  # seconds for which nobody asks why there is no picture
_LATENCY_FRAMES = 64
_THROUGHPUT_WINDOW = 3.0  # seconds


@dataclass(slots=True, kw_only=True)
class _Counters:
    """They only rise, except for `attempts`."""

    received: int = 0
    decoded: int = 0
    inferred: int = 0
    emitted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by cause
    attempts: int = 0  # to open the source that failed since the last success
    failures: int = 0


def _window() -> deque[float]:
    return deque(maxlen=_LATENCY_FRAMES)


@dataclass(slots=True, kw_only=True)
class _LatencyWindows:
    """Seconds that the last frames took, and when they were emitted."""

    began: float  # monotonic seconds
    decoding: deque[float] = field(default_factory=_window)
    inference: deque[float] = field(default_factory=_window)
    end_to_end: deque[float] = field(default_factory=_window)
    emission: deque[float] = field(default_factory=_window)  # from the capture until the predictions left
    ticks: deque[float] = field(default_factory=deque)  # monotonic seconds of what was emitted lately

    def inferred(self, *, decoded_at: float, started_at: float, ready_at: float) -> None:
        self.decoding.append(started_at - decoded_at)
        self.inference.append(ready_at - started_at)
        self.end_to_end.append(ready_at - decoded_at)

    def emitted(self, now: float, latency: float) -> None:
        self.emission.append(latency)
        self.ticks.append(now)
        self._forget_ticks(now)

    def fps(self, now: float) -> float:
        """Frames emitted a second, over the last three."""
        self._forget_ticks(now)
        span = min(_THROUGHPUT_WINDOW, now - self.began)
        return round(len(self.ticks) / span, 3) if span > 0 else 0.0

    def _forget_ticks(self, now: float) -> None:
        while self.ticks and self.ticks[0] <= now - _THROUGHPUT_WINDOW:
            self.ticks.popleft()


@dataclass(slots=True, kw_only=True)
class _SourceState:
    """What the source does now, and what was seen of it last. Times are monotonic seconds."""

    finite: bool
    waits_since: float
    looked_at: float
    state: str = "NOT_STARTED"  # the source's own, as Roboflow names it
    shown: str = "NOT_STARTED"  # as people see it, who see pauses too
    paused: bool = False
    over: bool = False  # it is finite, and every frame of it has been dealt with
    connected: bool = False
    final: bool = False  # its last attempt failed for a reason that does not go away
    failing: bool = False  # the last frame that came back from the engine came without an output
    reason: str = ""
    cause: SourceCause | None = None
    waits_for: str = ""  # before the first picture
    patience: float = 0.0  # seconds that a picture may take
    properties: dict[str, Any] | None = None
    size: tuple[int, int] = (0, 0)  # pixels, width and height
    last_frame_at: float | None = None
    frozen_since: float | None = None

    def is_overdue(self, now: float) -> bool:
        """It has been opened for longer than that usually takes."""
        return self.state == "INITIALISING" and now - self.waits_since >= _UNREMARKABLE

    def frozen_for(self, now: float) -> float | None:
        """Seconds for which the picture has not changed. None: it moves, or was not looked at lately."""
        if self.frozen_since is None or now - self.looked_at > FORGOTTEN:
            return None
        return now - self.frozen_since

    def reason_at(self, now: float) -> str:
        """Why there is no picture, or why it is of no use; empty when all is well."""
        return self.reason or self._what_is_missing(now) or _frozen_reason(self.frozen_for(now))

    def _what_is_missing(self, now: float) -> str:
        """No state lasts long without a reason."""
        if self.is_overdue(now) and self.waits_for:
            return f"{self.waits_for}, for {_in_steps(now - self.waits_since)}"
        silence = 0.0 if self.last_frame_at is None else now - self.last_frame_at
        if self.state == "RUNNING" and not self.finite and silence > max(_UNREMARKABLE, self.patience / 2):
            return f"no frame for {_in_steps(silence)}"
        return ""


class SourceMetrics:
    """One source's. Any thread may call any method."""

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
        self._source = _SourceState(finite=finite, waits_since=now, looked_at=now)

    # what the threads write -------------------------------------------------------------------------------

    def source_is(self, state: str) -> None:
        """The source is in another state of Roboflow's."""
        with self._lock:
            if state == "INITIALISING":
                self._source.waits_since = time.monotonic()
            self._source.state = state
            self._tell_state()

    def waits(self, what: str) -> None:
        """The source is being opened, and this is what is missing until there is a picture."""
        with self._lock:
            self._source.waits_for = what

    def become_finite(self) -> None:
        """It turned out to be a film."""
        with self._lock:
            self._source.finite = True
            self._tell_state()

    def paused(self, paused: bool) -> None:
        """Nothing of it is emitted from now on, or it goes on."""
        with self._lock:
            self._source.paused = paused
            self._tell_state()

    def over(self) -> None:
        """It has come to its end, and so has the last of its frames."""
        with self._lock:
            self._source.over = True
            self._tell_state()

    def source_connected(self, capture: Capture) -> None:
        """The source is open."""
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
        self._journal.well(self._source_id)

    def source_ended(self, remark: str) -> None:
        """The data is at its end; the remark says what was wrong with it, if something was."""
        with self._lock:
            self._source.reason = remark
        if remark:
            payload = {"source_id": self._source_id, "message": remark}
            self._note(WARNING, "VIDEO_DAMAGED", payload, "video_source.video_consumer")
        self.source_is("ENDED")

    def source_failed(self, reason: str, cause: SourceCause, *, final: bool = False) -> None:
        """An attempt to open the source, or to go on reading it, failed; `final`: so will the next ones."""
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
            self._counters.dropped["inference"] += 1
            if (
                self._source.failing
            ):  # one event for a row of failures, or they would push everything else out
                return
            self._source.failing = True
        self._journal.error("INFERENCE_ERROR", "InferenceFailed", reason, "inference_thread")

    def grabbed(self, now: float, patience: float = 0.0) -> None:
        """One more frame came from the source; the next may take so many seconds."""
        with self._lock:
            self._source.patience = patience
            self._counters.received += 1
            self._source.last_frame_at = now

    def decoded(self) -> None:
        """There is a picture of the frame that came last."""
        with self._lock:
            self._counters.decoded += 1

    def seen(self, width: int, height: int) -> None:
        """A picture has this size in pixels."""
        self._source.size = (width, height)

    def looked(self, frozen_for: float | None, now: float) -> None:
        """The picture has not changed for so many seconds; None: it moves."""
        with self._lock:
            was_frozen = self._source.frozen_since is not None
            self._source.frozen_since = None if frozen_for is None else now - frozen_for
            self._source.looked_at = now
        if was_frozen != (frozen_for is not None):
            event = "PICTURE_MOVES" if was_frozen else "PICTURE_STANDS_STILL"
            severity = INFO if was_frozen else WARNING
            self._note(severity, event, {"source_id": self._source_id}, "video_source")
            self._changed.set()

    def dropped(self, cause: str, count: int = 1) -> None:
        """So many frames are not emitted, and why."""
        with self._lock:
            self._counters.dropped[cause] += count

    def inferred(self, *, decoded_at: float, started_at: float, ready_at: float) -> None:
        """The engine is through with a frame; monotonic seconds."""
        with self._lock:
            self._counters.inferred += 1
            self._source.failing = False
            self._windows.inferred(decoded_at=decoded_at, started_at=started_at, ready_at=ready_at)

    def emitted(self, now: float, *, latency: float) -> None:
        """The predictions of one more frame have left, so many seconds after its capture."""
        with self._lock:
            self._counters.emitted += 1
            self._windows.emitted(now, latency)

    # what is read -----------------------------------------------------------------------------------------

    def is_overdue(self, now: float) -> bool:
        """It has been opened for longer than that usually takes."""
        return self._source.is_overdue(now)

    @property
    def final(self) -> bool:
        """Its last attempt failed for a reason that does not go away."""
        return self._source.final

    @property
    def patience(self) -> float:
        """Seconds that it may be silent before it counts as lost; 0: it never is."""
        return self._source.patience

    @property
    def state(self) -> str:
        """The source's own, whether it is paused or not, as Roboflow names it."""
        return self._source.state

    def source_stat(self, now: float) -> SourceStat:
        """The source with its counters, and its state as people see it, which knows of pauses too."""
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
        """Roboflow's properties of one source; None until it was open."""
        with self._lock:
            return None if self._source.properties is None else dict(self._source.properties)

    def _tell_state(self) -> None:
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
            self._note(INFO, "SOURCE_STATE_UPDATE", states, "video_source")
            self._changed.set()

    def _note(self, severity: int, event_type: str, payload: dict[str, Any], context: str) -> None:
        self._journal.note(severity, event_type, payload, context, of=self._source_id)


def _failure_event(cause: SourceCause, *, lost: bool) -> tuple[int, str]:
    """Severity and type: programs for Roboflow look for errors to learn that a source cannot be opened."""
    if cause == "internal":
        return ERROR, "SOURCE_ERROR"
    if lost:
        return WARNING, "SOURCE_CONNECTION_LOST"
    return ERROR, "SOURCE_CONNECTION_ATTEMPT_FAILED"


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _frozen_reason(frozen_for: float | None) -> str:
    """In steps, because every other text is news that travels through the fleet."""
    return "" if frozen_for is None else f"the picture has not changed for {_in_steps(frozen_for, 10)}"


def _in_steps(seconds: float, step: int = 5) -> str:
    """So that a text that holds it does not change too often."""
    if seconds < 60:
        return f"{seconds // step * step or seconds:.0f} s"
    return f"{seconds // 60:.0f} min" if seconds < 3600 else f"{seconds // 3600:.0f} h"
