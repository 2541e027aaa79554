"""What has happened in a camera process, for its reports: the original's status report, and our own counters.

Every thread of the process writes here, the one that talks to the agent reads. It never decides anything.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from datetime import datetime
from typing import Any

from streamfleet_broker.protocol.reference import SourceKind, kind_of, sanitised
from streamfleet_broker.protocol.status import SourceCause, SourceStat
from streamfleet_worker.camera.buffer import Wakeup
from streamfleet_worker.camera.source import Capture

INFO, ERROR = 20, 40  # severities, as the original numbers them

_KEPT_UPDATES = 64
_LATENCY_FRAMES = 64
_THROUGHPUT_WINDOW = 3.0  # seconds


class Ledger:
    """Counters only rise. Any thread may call any method."""

    def __init__(self, reference: str | int, *, now: float, changed: Wakeup) -> None:
        self._lock = threading.Lock()
        self._changed = changed  # wakes the thread that reports
        self._kind = kind_of(reference)
        self._reference = sanitised(reference)
        self._updates: deque[dict[str, Any]] = deque(maxlen=_KEPT_UPDATES)
        self._state = "NOT_STARTED"
        self._properties: dict[str, Any] | None = None
        self._reason = ""
        self._cause: SourceCause | None = None
        self._attempts = 0
        self._dropped: Counter[str] = Counter()
        self._received = self._inferred = self._emitted = 0
        self._failing = False  # the last frame that came back from the engine came without an output
        self._last_frame_at: float | None = None  # monotonic seconds
        self._began = now
        self._ticks: deque[float] = deque()  # monotonic seconds of what was emitted lately
        self._decoding: deque[float] = deque(maxlen=_LATENCY_FRAMES)  # seconds
        self._inference: deque[float] = deque(maxlen=_LATENCY_FRAMES)
        self._end_to_end: deque[float] = deque(maxlen=_LATENCY_FRAMES)

    # what the threads write -------------------------------------------------------------------------------

    def source_is(self, state: str) -> None:
        """The source is in another state of the original's."""
        with self._lock:
            previous, self._state = self._state, state
            if previous == state:
                return
            self._update(
                INFO,
                "SOURCE_STATE_UPDATE",
                {"previous_state": previous, "new_state": state, "source_id": 0},
                "video_source",
            )
        self._changed.set()

    def source_connected(self, capture: Capture) -> None:
        """The source is open."""
        with self._lock:
            self._properties = {
                "width": capture.width,
                "height": capture.height,
                "total_frames": capture.total_frames,
                "is_file": capture.finite,
                "fps": capture.fps,
                "is_reconnectable": not capture.finite,
                "timestamp_created": None
                if self._properties is None
                else self._properties["timestamp_created"],
            }
            if self._properties["timestamp_created"] is None:
                self._properties["timestamp_created"] = datetime.now().isoformat()
            self._attempts = 0
            self._reason = ""
            self._cause = None

    def source_failed(self, reason: str, cause: SourceCause = "internal") -> None:
        """An attempt to open the source, or to go on reading it, failed."""
        with self._lock:
            self._attempts += 1
            self._reason = reason
            self._cause = cause
            self._update(
                ERROR,
                "SOURCE_ERROR",
                {
                    "error_type": "SourceLost",
                    "error_message": reason,
                    "error_context": "stream_consumer_thread",
                },
                "video_source.video_consumer",
            )

    def consumption(self, event: str) -> None:
        """Reading has STARTED or FINISHED."""
        with self._lock:
            self._update(INFO, f"VIDEO_CONSUMPTION_{event}", {"source_id": 0}, "video_source.video_consumer")

    def inference_thread(self, event: str) -> None:
        """Inference has STARTED or FINISHED."""
        with self._lock:
            self._update(INFO, f"INFERENCE_THREAD_{event}", {}, "inference_pipeline")

    def inference_failed(self, reason: str) -> None:
        """The engine gave nothing for a frame."""
        with self._lock:
            self._dropped["inference"] += 1
            if self._failing:  # one update for a row of failures, or they would push everything else out
                return
            self._failing = True
            self._update(
                ERROR,
                "INFERENCE_ERROR",
                {
                    "error_type": "InferenceFailed",
                    "error_message": reason,
                    "error_context": "inference_thread",
                },
                "inference_pipeline",
            )

    def sink_failed(self, sink: str, reason: str) -> None:
        """A sink began to refuse what it is sent."""
        with self._lock:
            self._update(
                ERROR,
                "INFERENCE_RESULTS_DISPATCHING_ERROR",
                {
                    "error_type": "SinkFailed",
                    "error_message": f"{sink}: {reason}",
                    "error_context": "inference_results_dispatching",
                },
                "inference_pipeline",
            )

    def grabbed(self, now: float) -> None:
        """One more frame came from the source."""
        with self._lock:
            self._received += 1
            self._last_frame_at = now

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

    def emitted(self, now: float) -> None:
        """The predictions of one more frame have left."""
        with self._lock:
            self._emitted += 1
            self._ticks.append(now)
            self._forget_ticks(now)

    # what is read -----------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The source's, as the original names it."""
        return self._state

    @property
    def reason(self) -> str:
        """Why there is no picture; empty when there is one."""
        return self._reason

    def fps(self, now: float) -> float:
        """Emitted frames a second over the last seconds; 0 when there were none."""
        with self._lock:
            self._forget_ticks(now)
            span = min(_THROUGHPUT_WINDOW, now - self._began)
            return round(len(self._ticks) / span, 3) if span > 0 else 0.0

    def source_stat(self, now: float, *, shown: str) -> SourceStat:
        """The source with its counters; `shown` is its state for people, which knows of pauses too."""
        with self._lock:
            age = None if self._last_frame_at is None else round(now - self._last_frame_at, 3)
            return SourceStat(
                source_id=0,
                reference=self._reference,
                state=shown,
                received=self._received,
                inferred=self._inferred,
                emitted=self._emitted,
                dropped=dict(self._dropped),
                attempts=self._attempts,
                cause=self._cause,
                reason=self._reason,
                last_frame_age=age,
            )

    def report(self, now: float, *, shown: str, buffer_size: int) -> dict[str, Any]:
        """The original's status report: these four keys, in this order."""
        throughput = self.fps(now)
        is_file = self._kind is SourceKind.FILE
        with self._lock:
            return {
                "video_source_status_updates": list(self._updates),
                "latency_reports": [
                    {
                        "source_id": 0,
                        "frame_decoding_latency": _mean(self._decoding),
                        "inference_latency": _mean(self._inference),
                        "e2e_latency": _mean(self._end_to_end),
                    }
                ],
                "inference_throughput": throughput,
                "sources_metadata": [
                    {
                        "source_properties": None if self._properties is None else dict(self._properties),
                        "source_reference": self._reference,
                        "buffer_size": buffer_size,
                        "state": shown,
                        "buffer_filling_strategy": "WAIT" if is_file else "DROP_OLDEST",
                        "buffer_consumption_strategy": "LAZY" if is_file else "EAGER",
                        "source_id": 0,
                    }
                ],
            }

    def _update(self, severity: int, event_type: str, payload: dict[str, Any], context: str) -> None:
        self._updates.append(
            {
                "timestamp": datetime.now().isoformat(),
                "severity": severity,
                "event_type": event_type,
                "payload": payload,
                "context": context,
            }
        )

    def _forget_ticks(self, now: float) -> None:
        while self._ticks and self._ticks[0] <= now - _THROUGHPUT_WINDOW:
            self._ticks.popleft()


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None
