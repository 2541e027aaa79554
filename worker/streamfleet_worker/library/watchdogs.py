"""Watchdogs of a running pipeline, under Roboflow's names: status updates, latencies, throughput."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.status_updates import StatusUpdate, UpdateSeverity
from streamfleet_worker.library.video_source import SourceMetadata, VideoSource

_UPDATES = 512  # the newest ones are kept
_FRAMES = 64  # over which latencies are averaged
_TICKS = 30  # frames over which the throughput is measured


@dataclass(frozen=True, slots=True)
class LatencyMonitorReport:
    """The latencies of one source: means over its last frames, in seconds. None: there was no frame."""

    source_id: int | None = None
    frame_decoding_latency: float | None = None  # from decoding to the model
    inference_latency: float | None = None
    e2e_latency: float | None = None  # from decoding to the prediction


@dataclass(frozen=True, slots=True)
class PipelineStateReport:
    """The state of a pipeline at one moment. Convert it with `dataclasses.asdict`."""

    video_source_status_updates: list[StatusUpdate]
    latency_reports: list[LatencyMonitorReport]
    inference_throughput: float  # frames per second
    sources_metadata: list[SourceMetadata]


class PipelineWatchDog:
    """The interface of a watchdog. Override the methods that you need.

    The pipeline's own thread calls all of them, except `get_report`: any thread may call that.
    """

    def register_video_sources(self, video_sources: Sequence[VideoSource]) -> None:
        """Receive the sources of the pipeline. Called once, before all other methods."""

    def on_status_update(self, status_update: StatusUpdate) -> None:
        """Receive a status update."""

    def on_model_inference_started(self, frames: Sequence[VideoFrame]) -> None:
        """These frames are about to be sent to the model."""

    def on_model_prediction_ready(self, frames: Sequence[VideoFrame]) -> None:
        """The predictions of these frames are ready, and are about to be passed to the sinks."""

    def get_report(self) -> PipelineStateReport | None:
        """Report the state of the pipeline; None if this watchdog keeps none."""
        return None


class NullPipelineWatchdog(PipelineWatchDog):
    """A watchdog that does nothing."""


@dataclass(slots=True)
class _Latencies:
    """The latencies of one source, in seconds."""

    began: dict[int, datetime] = field(default_factory=dict)  # when frames were sent to the model, by id
    decoding: deque[float] = field(default_factory=lambda: deque(maxlen=_FRAMES))
    inference: deque[float] = field(default_factory=lambda: deque(maxlen=_FRAMES))
    end_to_end: deque[float] = field(default_factory=lambda: deque(maxlen=_FRAMES))


class BasePipelineWatchDog(PipelineWatchDog):
    """Records status updates, latencies and throughput of one pipeline for `get_report`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: tuple[VideoSource, ...] = ()
        self._latencies: dict[int | None, _Latencies] = {}
        self._updates: deque[StatusUpdate] = deque(maxlen=_UPDATES)
        self._ticks: deque[float] = deque(maxlen=_TICKS)  # monotonic seconds of the last predictions

    def register_video_sources(self, video_sources: Sequence[VideoSource]) -> None:
        """Start to record these sources."""
        with self._lock:
            self._sources = tuple(video_sources)
            self._latencies = {source.source_id: _Latencies() for source in video_sources}

    def on_status_update(self, status_update: StatusUpdate) -> None:
        """Record a status update, unless its severity is DEBUG."""
        if status_update.severity > UpdateSeverity.DEBUG:
            with self._lock:
                self._updates.append(status_update)

    def on_model_inference_started(self, frames: Sequence[VideoFrame]) -> None:
        """Record how long the frames waited."""
        now = datetime.now()
        with self._lock:
            for frame in frames:
                latencies = self._latencies.setdefault(frame.source_id, _Latencies())
                latencies.began[frame.frame_id] = now
                if len(latencies.began) > _FRAMES:  # some get no prediction
                    del latencies.began[next(iter(latencies.began))]
                latencies.decoding.append((now - frame.frame_timestamp).total_seconds())

    def on_model_prediction_ready(self, frames: Sequence[VideoFrame]) -> None:
        """Record how long the model took."""
        now = datetime.now()
        with self._lock:
            for frame in frames:
                latencies = self._latencies.setdefault(frame.source_id, _Latencies())
                if (began := latencies.began.pop(frame.frame_id, None)) is not None:
                    latencies.inference.append((now - began).total_seconds())
                latencies.end_to_end.append((now - frame.frame_timestamp).total_seconds())
                self._ticks.append(time.monotonic())

    def get_report(self) -> PipelineStateReport:
        """Report the state of the pipeline. The throughput falls while no frames arrive."""
        with self._lock:
            updates, sources, ticks = list(self._updates), self._sources, list(self._ticks)
            reports = [
                LatencyMonitorReport(
                    source_id, _mean(each.decoding), _mean(each.inference), _mean(each.end_to_end)
                )
                for source_id, each in self._latencies.items()
            ]
        span = time.monotonic() - ticks[0] if ticks else 0.0
        return PipelineStateReport(
            video_source_status_updates=updates,
            latency_reports=reports,
            inference_throughput=len(ticks) / span if span > 0 else 0.0,
            sources_metadata=[source.describe_source() for source in sources],
        )


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None
