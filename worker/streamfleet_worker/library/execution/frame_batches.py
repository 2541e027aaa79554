"""The sources of a pipeline, and the batches of their frames: at most one frame of each source per batch.

A batch waits for every source that delivers frames, up to the timeout of the pipeline. It does not wait for
sources that are lost, paused or ended, nor for those of which only frames with motion are taken. A pause
loses no frame of a file, and never blocks a live source.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from streamfleet_core.protocol.source_reference import is_finite
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.ipc.playback_position import Progress
from streamfleet_worker.library.errors import SourceConnectionError
from streamfleet_worker.library.execution.playback_clock import Schedule
from streamfleet_worker.library.frame import VideoFrame, frame_of_picture
from streamfleet_worker.library.status_updates import Updates
from streamfleet_worker.video.frame import Frame, Stamp
from streamfleet_worker.video.source_lane import SourceLane
from streamfleet_worker.video.source_reader import Reader
from streamfleet_worker.video.sources.buffer_policy import Rate
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics

_FIRST_PICTURE = 45.0  # seconds; longer than any attempt to open a source
_IDLE = 0.5  # seconds, the longest wait before everything is checked again


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One source, and how it is played."""

    spec: SourceSpec
    buffer_size: int | None = None  # frames decoded ahead; None: depends on the source
    native: bool = False  # a file plays at its own frame rate, and late frames are skipped
    strides: bool = False  # with a limit, a file skips frames instead of playing slower


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame of a batch."""

    frame: VideoFrame
    stamp: Stamp
    lane: SourceLane
    taken_at: float  # monotonic seconds
    skipped: float = 0.0  # seconds for which the source stood still, in total

    @property
    def metrics(self) -> SourceMetrics:
        """The counters of its source."""
        return self.lane.metrics

    @property
    def moving_stamp(self) -> Stamp:
        """The stamp with a time that stands still with the picture, for trackers."""
        return replace(self.stamp, media_time=self.stamp.media_time - self.skipped)

    @property
    def began_at(self) -> float:
        """The start of its latency. A frame of a file that waits for its time or a pause has not started."""
        return self.taken_at if self.frame.comes_from_video_file else self.stamp.decoded_at


FrameBatch = tuple["Taken | None", ...]  # by source


class Sources:
    """The sources of one pipeline. One thread requests batches; any thread may pause, resume, and read."""

    def __init__(
        self,
        plans: Sequence[SourcePlan],
        *,
        updates: Updates,
        wakeup: threading.Event,
        batch_timeout: float | None = None,
    ) -> None:
        """`wakeup` is set when a new batch may be possible; `batch_timeout` is in seconds."""
        self._wakeup = wakeup
        self._batch_timeout = batch_timeout
        self._lock = threading.Lock()  # guards the feeds
        self._progress = Progress(len(plans))
        self.feeds = tuple(
            Feed(source_id, plan, updates=updates, wakeup=wakeup, progress=self._progress)
            for source_id, plan in enumerate(plans)
        )
        # Monotonic seconds, since when a batch waits for the other sources.
        self._waiting_since: float | None = None

    def open(self, stopped: threading.Event) -> None:
        """Start reading, and wait for the first picture of each source. Raises: SourceConnectionError."""
        until = time.monotonic() + _FIRST_PICTURE
        for feed in self.feeds:
            feed.reader.start()
        while not stopped.is_set():
            self._wakeup.clear()
            if all(feed.has_opened() for feed in self.feeds):
                return
            if (left := until - time.monotonic()) <= 0:
                late = next(feed for feed in self.feeds if not feed.has_opened())
                text = f"source {late.source_id}: no picture within {_FIRST_PICTURE:.0f} s"
                raise SourceConnectionError(text, source_id=late.source_id, cause="timeout")
            self._wakeup.wait(min(left, _IDLE))

    def next_batch(self, now: float) -> FrameBatch | None:
        """The frames of the next batch, if one is ready."""
        with self._lock:
            for feed in self.feeds:
                feed.prepare(now)
            if not any(feed.is_ready for feed in self.feeds):
                self._waiting_since = None
                return None
            if self._waiting_since is None:
                self._waiting_since = now
            if self._time_left(now) > 0 and any(feed.is_awaited for feed in self.feeds):
                return None
            self._waiting_since = None
            return tuple(feed.take() for feed in self.feeds)

    def wait(self, now: float) -> float:
        """Seconds after which a batch may be possible without a wakeup."""
        with self._lock:
            dues = [feed.wait(now) for feed in self.feeds]
            if self._waiting_since is not None and self._batch_timeout is not None:
                dues.append(self._time_left(now))
        return min([_IDLE, *(due for due in dues if due > 0)])

    def pause(self, source_ids: Sequence[int]) -> None:
        """Pause these sources: no more of their frames are taken."""
        with self._lock:
            for source_id in source_ids:
                self.feeds[source_id].pause(True)
        self._wakeup.set()

    def resume(self, source_ids: Sequence[int]) -> None:
        """Resume these sources."""
        with self._lock:
            for source_id in source_ids:
                self.feeds[source_id].pause(False)
        self._wakeup.set()

    def stats(self) -> list[SourceStat]:
        """The state and the counters of each source."""
        now = time.monotonic()
        return [feed.lane.metrics.source_stat(now) for feed in self.feeds]

    @property
    def finite(self) -> bool:
        """Whether no source is live."""
        return all(feed.lane.finite for feed in self.feeds)

    @property
    def over(self) -> bool:
        """Whether all sources have ended."""
        with self._lock:
            return all(feed.is_over for feed in self.feeds)

    def close(self, deadline: float) -> bool:
        """Stop reading, and return whether the threads of all sources ended within `deadline` seconds."""
        for feed in self.feeds:
            feed.reader.stop(0.0)  # tell all of them before waiting for one
        until = time.monotonic() + deadline
        for feed in self.feeds:
            feed.reader.stop(max(0.0, until - time.monotonic()))
            feed.forget()
        return not any(feed.reader.running for feed in self.feeds)

    def _time_left(self, now: float) -> float:
        """Seconds that this batch may still wait for missing frames."""
        if self._batch_timeout is None:
            return float("inf")
        assert self._waiting_since is not None
        return max(0.0, self._waiting_since + self._batch_timeout - now)


class Feed:
    """One source: selects its next frame, and when. Not thread-safe."""

    def __init__(
        self,
        source_id: int,
        plan: SourcePlan,
        *,
        updates: Updates,
        wakeup: threading.Event,
        progress: Progress,
    ) -> None:
        self.source_id = source_id
        now = time.monotonic()
        metrics = SourceMetrics(
            plan.spec.reference,
            now=now,
            changed=wakeup,
            source_id=source_id,
            journal=updates,
            finite=is_finite(plan.spec),
        )
        self.lane = SourceLane(
            source_id, plan.spec, wakeup=wakeup, metrics=metrics, progress=progress, frames=plan.buffer_size
        )
        self.lane.gate.use(plan.spec.motion, plan.spec.region)
        self.reader = Reader(
            plan.spec,
            position=0,
            buffer=self.lane.buffer,
            metrics=metrics,
            drop_cause=self._drop_cause,
            screen=self.lane.screen,
        )
        self._plan = plan
        self._apply_source_kind()
        self._rate = Rate()  # of the frames that were taken
        self._early: Frame | None = None  # the next frame of a file whose time has not come
        self._ready: Taken | None = None
        self._submitted: Frame | None = None  # the frame of `_ready`
        self._paused = False

    def _apply_source_kind(self) -> None:
        """Set the schedule and the pace for a file or for a live source."""
        plan, finite = self._plan, self.lane.finite
        thinned = plan.strides and finite
        self._finite = finite
        self._schedule = Schedule(
            native=plan.native and finite, max_fps=plan.spec.max_fps if thinned else None
        )
        self.lane.pace.limit(None if thinned else plan.spec.max_fps)

    def has_opened(self) -> bool:
        """Whether it has delivered a picture. Raises: SourceConnectionError if the first attempt failed."""
        metrics = self.lane.metrics
        stat = metrics.source_stat(time.monotonic())
        if metrics.properties is not None:
            return metrics.state != "INITIALISING"
        if stat.cause is not None:
            raise SourceConnectionError(stat.reason, source_id=self.source_id, cause=stat.cause)
        return False

    def prepare(self, now: float) -> None:
        """Take the next frame from the buffer, if there is one and its time has come."""
        lane = self.lane
        if lane.finite != self._finite:
            self._apply_source_kind()  # its URL turned out to be a file
        if self._paused or (self._ready is None and lane.pace.wait(now) > 0):
            lane.drop_waiting(now, muted=self._paused)
            return
        if self._ready is None:
            self._take(now)
        elif lane.buffer.consumption == "EAGER" and not lane.finite:
            self._replace_with_newer(now)
        if lane.exhausted and self._ready is None and self._early is None and not lane.done:
            lane.metrics.over()
            lane.done = True

    def take(self) -> Taken | None:
        """Hand the prepared frame to a batch; None if there is none."""
        if self._paused:
            return None
        taken, self._ready = self._ready, None
        if self._submitted is not None:
            self.lane.submitted(self._submitted)
            self._submitted = None
        return taken

    def pause(self, paused: bool) -> None:
        """Pause or resume."""
        self._paused = paused
        self.lane.metrics.paused(paused)
        self.lane.muted = paused
        self.lane.buffer.hold(paused and self.lane.finite)
        self._schedule.pause()
        if paused and not self.lane.finite and self._ready is not None:
            self.lane.metrics.dropped("muted")
            self._ready = self._submitted = None

    def forget(self) -> None:
        """Release all pictures: a reference to the pipeline must not keep them in memory."""
        self._early = self._ready = self._submitted = None
        while self.lane.buffer.take(0.0):
            continue

    @property
    def is_ready(self) -> bool:
        """Whether a frame is prepared and may be taken."""
        return self._ready is not None and not self._paused

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.lane.done or self.reader.failed

    @property
    def is_awaited(self) -> bool:
        """Whether none is prepared and one is expected soon."""
        if self._ready is not None or self._paused or self.is_over or self.lane.gate.is_on:
            return False
        return self.lane.metrics.state in ("RUNNING", "ENDED")

    def wait(self, now: float) -> float:
        """Seconds until the next frame may be taken; 0 if it waits for something else."""
        if self._early is not None:
            return self._schedule.wait(self._early.stamp.media_time, now)
        return self.lane.pace.wait(now) if self._ready is None else 0.0

    def _drop_cause(self, now: float) -> str | None:
        """Why a frame that is grabbed now would be dropped. Called by the thread of the reader."""
        if self._ready is not None and not self._paused:
            return None  # it may replace the prepared one
        return self.lane.drop_cause(now)

    def _take(self, now: float) -> None:
        frame = self._next_on_time(now)
        if frame is None:
            return
        self.lane.pace.went(now)
        self._prepare(frame, now)

    def _replace_with_newer(self, now: float) -> None:
        """Replace the prepared frame with a newer one, while its batch waits for other sources."""
        frame = self.lane.take(now)
        if frame is not None:
            self.lane.metrics.dropped("eager")
            self._prepare(frame, now)

    def _next_on_time(self, now: float) -> Frame | None:
        while (frame := self._early or self.lane.take(now)) is not None:
            self._early = None
            stamp = frame.stamp
            if self._schedule.wait(stamp.media_time, now) > 0:
                self._early = frame
                return None
            if not self._schedule.skips(stamp.media_time, stamp.fps, now):
                return frame
            self.lane.metrics.dropped("max_fps")
            self.lane.gate.forget()
        return None

    def _prepare(self, frame: Frame, now: float) -> None:
        self._ready, self._submitted = self._taken(frame, now), frame

    def _taken(self, frame: Frame, now: float) -> Taken:
        """Wrap a frame for the user."""
        stamp = frame.stamp
        self._rate.tick(stamp.decoded_at)
        video_frame = frame_of_picture(
            frame.picture,
            frame_id=stamp.frame_id,
            frame_timestamp=datetime.fromtimestamp(stamp.wall_ns / 1e9),  # noqa: DTZ006
            source_id=self.source_id,
            fps=stamp.fps or None,
            measured_fps=self._rate.until(),
            comes_from_video_file=self.lane.finite,
        )
        return Taken(video_frame, stamp, self.lane, now, frame.skipped)
