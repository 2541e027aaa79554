"""The sources of a pipeline, and the rounds in which their frames go: at most one of each source a round.

A round waits for every source that has a picture; not for one that is lost, paused or over, and not for
longer than the pipeline's time for it. A file loses no frame by a pause, a live source is never held up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from streamfleet_core.protocol.source_reference import is_finite
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.ipc.playback_position import Progress
from streamfleet_worker.library.errors import SourceConnectionError
from streamfleet_worker.library.execution.playback_clock import Schedule
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.status_updates import Updates
from streamfleet_worker.video.frame import Frame, Stamp
from streamfleet_worker.video.source_lane import SourceLane
from streamfleet_worker.video.source_reader import Reader
from streamfleet_worker.video.sources.buffer_policy import Rate
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics

_FIRST_PICTURE = 45.0  # seconds; longer than any attempt to open a source takes
_IDLE = 0.5  # seconds, the longest wait: what else may need a look is seen then


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One source and how it is played."""

    spec: SourceSpec
    buffer_size: int | None = None  # frames decoded ahead; None: as many as suit the source
    native: bool = False  # a file plays at its own pace, and what is late is left out
    strides: bool = False  # a file with a limit is thinned out, and not slowed down


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame of a round."""

    frame: VideoFrame
    stamp: Stamp
    metrics: SourceMetrics  # of its source
    taken_at: float  # monotonic seconds

    @property
    def began_at(self) -> float:
        """Since when it has been under way; what waits for the end of a pause, or its pace, is not."""
        return self.taken_at if self.frame.comes_from_video_file else self.stamp.decoded_at


Round = tuple["Taken | None", ...]  # by source


class Sources:
    """One thread asks for rounds. Any may pause, resume, and read."""

    def __init__(
        self,
        plans: Sequence[SourcePlan],
        *,
        updates: Updates,
        wakeup: threading.Event,
        batch_timeout: float | None = None,
    ) -> None:
        """`wakeup` is set when there is reason to ask again; `batch_timeout` is in seconds."""
        self._wakeup = wakeup
        self._batch_timeout = batch_timeout
        self._lock = threading.Lock()  # guards the feeds
        self._progress = Progress(len(plans))
        self.feeds = tuple(
            Feed(source_id, plan, updates=updates, wakeup=wakeup, progress=self._progress)
            for source_id, plan in enumerate(plans)
        )
        self._waiting_since: float | None = None  # monotonic seconds: for the rest of a round

    def open(self, stopped: threading.Event) -> None:
        """Begin to read, and wait for the first picture of each. Raises: SourceConnectionError."""
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

    def next_round(self, now: float) -> Round | None:
        """The frames that go together next, if it is time for them."""
        with self._lock:
            for feed in self.feeds:
                feed.look(now)
            if not any(feed.is_ready for feed in self.feeds):
                self._waiting_since = None
                return None
            if self._waiting_since is None:
                self._waiting_since = now
            if self._patience(now) > 0 and any(feed.is_awaited for feed in self.feeds):
                return None
            self._waiting_since = None
            return tuple(feed.give() for feed in self.feeds)

    def wait(self, now: float) -> float:
        """Seconds after which there may be a round although nothing woke anybody."""
        with self._lock:
            dues = [feed.wait(now) for feed in self.feeds]
            if self._waiting_since is not None and self._batch_timeout is not None:
                dues.append(self._patience(now))
        return min([_IDLE, *(due for due in dues if due > 0)])

    def pause(self, source_ids: Sequence[int]) -> None:
        """Take no frame of these from now on."""
        with self._lock:
            for source_id in source_ids:
                self.feeds[source_id].pause(True)
        self._wakeup.set()

    def resume(self, source_ids: Sequence[int]) -> None:
        """Go on with these."""
        with self._lock:
            for source_id in source_ids:
                self.feeds[source_id].pause(False)
        self._wakeup.set()

    def stats(self) -> list[SourceStat]:
        """The state and the counters of each."""
        now = time.monotonic()
        return [feed.lane.metrics.source_stat(now) for feed in self.feeds]

    @property
    def finite(self) -> bool:
        """No source is live."""
        return all(feed.lane.finite for feed in self.feeds)

    @property
    def over(self) -> bool:
        """No frame will come any more."""
        with self._lock:
            return all(feed.is_over for feed in self.feeds)

    def close(self, deadline: float) -> bool:
        """Stop reading; whether all sources let go of their threads within so many seconds."""
        for feed in self.feeds:
            feed.reader.stop(0.0)  # all hear it before one is waited for
        until = time.monotonic() + deadline
        for feed in self.feeds:
            feed.reader.stop(max(0.0, until - time.monotonic()))
            feed.forget()
        return not any(feed.reader.running for feed in self.feeds)

    def _patience(self, now: float) -> float:
        """Seconds that this round may still wait for what is missing."""
        if self._batch_timeout is None:
            return float("inf")
        assert self._waiting_since is not None
        return max(0.0, self._waiting_since + self._batch_timeout - now)


class Feed:
    """One source: which of its frames is next, and when. Not by itself safe for several threads."""

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
        self.reader = Reader(plan.spec, position=0, buffer=self.lane.buffer, metrics=metrics)
        self._plan = plan
        self._settle()
        self._rate = Rate()  # of the frames that were decoded and wanted
        self._early: Frame | None = None  # of a file that plays at its own pace: its time has not come
        self._ready: Taken | None = None
        self._paused = False

    def _settle(self) -> None:
        """Choose between the ways of a film and of a camera."""
        plan, finite = self._plan, self.lane.finite
        thinned = plan.strides and finite
        self._finite = finite
        self._schedule = Schedule(
            native=plan.native and finite, max_fps=plan.spec.max_fps if thinned else None
        )
        self.lane.pace.limit(None if thinned else plan.spec.max_fps)

    def has_opened(self) -> bool:
        """Whether a picture has come. Raises: SourceConnectionError when the first attempt failed."""
        metrics = self.lane.metrics
        stat = metrics.source_stat(time.monotonic())
        if metrics.properties is not None:
            return metrics.state != "INITIALISING"
        if stat.cause is not None:
            raise SourceConnectionError(stat.reason, source_id=self.source_id, cause=stat.cause)
        return False

    def look(self, now: float) -> None:
        """Have the frame ready that is next, if it is there and its time has come."""
        lane = self.lane
        if lane.finite != self._finite:
            self._settle()  # what is at its URL turned out to be a film
        if self._paused or (self._ready is None and lane.pace.wait(now) > 0):
            if not lane.finite:
                lane.drain("muted" if self._paused else "max_fps", now)
            return
        if self._ready is None:
            self._take(now)
        elif lane.buffer.consumption == "EAGER" and not lane.finite:
            self._renew(now)
        if lane.exhausted and self._ready is None and self._early is None and not lane.done:
            lane.metrics.over()
            lane.done = True

    def give(self) -> Taken | None:
        """The frame that is ready; it belongs to the round."""
        if self._paused:
            return None
        taken, self._ready = self._ready, None
        return taken

    def pause(self, paused: bool) -> None:
        """Let no frame go, or go on."""
        self._paused = paused
        self.lane.metrics.paused(paused)
        self.lane.buffer.hold(paused and self.lane.finite)
        self._schedule.pause()
        if paused and not self.lane.finite and self._ready is not None:
            self.lane.metrics.dropped("muted")
            self._ready = None

    def forget(self) -> None:
        """Let go of all pictures: whoever keeps the pipeline need not keep them."""
        self._early = self._ready = None
        while self.lane.buffer.take(0.0) or self.lane.buffer.spare() is not None:
            continue

    @property
    def is_ready(self) -> bool:
        """There is a frame that may go."""
        return self._ready is not None and not self._paused

    @property
    def is_over(self) -> bool:
        """No frame will come any more."""
        return self.lane.done or self.reader.failed

    @property
    def is_awaited(self) -> bool:
        """There is none ready, and there will be one soon."""
        if self._ready is not None or self._paused or self.is_over:
            return False
        return self.lane.metrics.state in ("RUNNING", "ENDED")

    def wait(self, now: float) -> float:
        """Seconds until a frame that is there may be taken; 0: that is not what is waited for."""
        if self._early is not None:
            return self._schedule.wait(self._early.stamp.media_time, now)
        return self.lane.pace.wait(now) if self._ready is None else 0.0

    def _take(self, now: float) -> None:
        frame = self._next_on_time(now)
        if frame is None:
            return
        self.lane.pace.went(now)
        self._ready = self._taken(frame, now)

    def _renew(self, now: float) -> None:
        """While a round waits for other sources, this one's frame grows old: take a newer one."""
        frame = self.lane.take(now)
        if frame is not None:
            self.lane.metrics.dropped("eager")
            self._ready = self._taken(frame, now)

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
            self.lane.buffer.give_back(frame.image)
        return None

    def _taken(self, frame: Frame, now: float) -> Taken:
        """The image is not given back to the buffer: it belongs to the user from here on."""
        stamp = frame.stamp
        self._rate.tick(stamp.decoded_at)
        video_frame = VideoFrame(
            image=frame.image,
            frame_id=stamp.frame_id,
            frame_timestamp=datetime.fromtimestamp(stamp.wall_ns / 1e9),  # noqa: DTZ006
            source_id=self.source_id,
            fps=stamp.fps or None,
            measured_fps=self._rate.until(),
            comes_from_video_file=self.lane.finite,
        )
        return Taken(video_frame, stamp, self.lane.metrics, now)
