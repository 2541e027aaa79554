"""One source of a pipeline, as the frame loop uses it: buffer, pace, tracker and metrics."""

from __future__ import annotations

import threading
from dataclasses import replace

from streamfleet_core.protocol.source_reference import is_finite
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.ipc.playback_position import Progress
from streamfleet_worker.video.detection.trackers import AnyTracker
from streamfleet_worker.video.frame import Frame, Picture
from streamfleet_worker.video.motion_gate import MotionGate
from streamfleet_worker.video.sources.buffer import FrameBuffer, Signal
from streamfleet_worker.video.sources.buffer_policy import consumption_of, filling_of
from streamfleet_worker.video.sources.freeze_detector import FreezeDetector, checksum
from streamfleet_worker.video.sources.pacing import HoldIntervals, Pace
from streamfleet_worker.video.sources.packet_skipper import Demand
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics

_FILE_FRAMES = 4  # decoded ahead
_LIVE_FRAMES = 2  # the newest, and one older
_STALE = 5.0  # seconds, after which a live frame is no longer worth an inference


class SourceLane:
    """One source. The thread of the frame loop owns it, except the thread-safe buffer and metrics."""

    def __init__(
        self,
        source_id: int,
        spec: SourceSpec,
        *,
        wakeup: Signal,
        metrics: SourceMetrics,
        progress: Progress,
        frames: int | None = None,  # to decode ahead; None: depends on the source
    ) -> None:
        self.source_id = source_id
        self.metrics = metrics
        finite = is_finite(spec)
        self.buffer = FrameBuffer(
            frames or (_FILE_FRAMES if finite else _LIVE_FRAMES),
            wakeup=wakeup,
            filling=filling_of(spec, finite=finite),
            consumption=consumption_of(spec, finite=finite),
            finite=finite,
        )
        self.pace = Pace(None)
        self.gate = MotionGate()
        self.holds = HoldIntervals()
        self.tracker: AnyTracker | None = None
        self.muted = (
            False  # set by the frame loop: frames of a live source are dropped; any thread may read it
        )
        self.done = False  # set by the frame loop after its last frame; any thread may read it
        self._progress = progress
        self._advanced_to = 0  # the last frame that was recorded
        self._still_until = 0  # the last frame that showed no motion
        self._inspecting = threading.Lock()  # guards the detector, which two threads update
        self._freeze_detector = FreezeDetector()

    @property
    def finite(self) -> bool:
        """Whether it has an end, and every frame of it is processed."""
        return self.buffer.finite

    @property
    def exhausted(self) -> bool:
        """Whether it is finite and its last frame was taken. For the thread of the frame loop."""
        return self.finite and self.buffer.exhausted

    @property
    def next_decoded_at(self) -> float | None:
        """Monotonic seconds at which the next frame was decoded; None if none waits in the buffer."""
        return self.buffer.next_decoded_at

    def drop_cause(self, now: float) -> str | None:
        """Why a frame that is grabbed now would be dropped; None if it may be needed. Any thread may ask."""
        if self.finite or self._freeze_detector.due(now):
            return None
        if self.muted:
            return "muted"
        return "max_fps" if self.pace.wait(now) > 0 else None

    def demand(self) -> Demand | None:
        """Which pictures are needed next; None: all. Any thread may ask."""
        if self.finite or self.muted or not self.pace.interval:  # what is resumed begins at once
            return None
        return Demand(
            due=self.pace.due,
            interval=self.pace.interval,
            check_by=self._freeze_detector.forgets_at,
            exact=self.gate.is_on,
        )

    def screen(self, frame: Frame) -> Frame | None:
        """The frame as the frame loop needs it; None if it shows no motion. For the thread of the reader."""
        if not self.gate.is_on:
            return replace(frame, skipped=self.gate.skipped) if self.gate.skipped else frame
        overview, stamp = frame.picture.overview(), frame.stamp
        if self.gate.is_still(overview, stamp.media_time):
            self._inspect(frame.picture, stamp.decoded_at)
            self._still_until = stamp.frame_id
            return None
        if self.finite:  # it is inferred in any case, so that the decisions do not depend on when
            self.gate.inferred(overview, stamp.media_time)
        return replace(frame, overview=overview, skipped=self.gate.skipped)

    def submitted(self, frame: Frame) -> None:
        """Record that a frame is inferred."""
        if frame.overview is not None and not self.finite:
            self.gate.inferred(frame.overview, frame.stamp.media_time)

    def take(self, now: float) -> Frame | None:
        """Take the next frame, and count those that it replaces as dropped.

        Frames of a live source that have waited for too long are dropped.
        """
        while frames := self.buffer.take(now):
            if len(frames) > 1:
                self.metrics.dropped("eager", len(frames) - 1)
            self._inspect(frames[-1].picture, now)
            if self.finite or now - frames[-1].stamp.decoded_at <= _STALE:
                return frames[-1]
            self.metrics.dropped("stale")
        return None

    def drop_waiting(self, now: float, *, muted: bool) -> None:
        """Drop the buffered frames of a live source that is muted or ahead of its `max_fps`. A file waits."""
        if self.finite:
            return
        while frames := self.buffer.drain(now):
            self._inspect(frames[-1].picture, now)
            self.metrics.dropped("muted" if muted else "max_fps", len(frames))

    def advance(self, frame_id: int) -> None:
        """Record this frame as emitted, so that a later process does not emit it again."""
        self._advanced_to = frame_id
        self._progress.advance(frame_id, self.source_id)

    def advance_past_still(self) -> None:
        """Record the frames of a file that showed no motion, if no frame before them waits.

        Call it while no frame of the source is in flight.
        """
        still_until = self._still_until  # read first: what was put before it is in the buffer, or was taken
        if self.finite and still_until > self._advanced_to and self.buffer.next_decoded_at is None:
            self.advance(still_until)

    def _inspect(self, picture: Picture, now: float) -> None:
        self.metrics.set_size(picture.width, picture.height)
        with self._inspecting:
            if not self.finite and self._freeze_detector.due(now):
                self._freeze_detector.update(checksum(picture), now)
                self.metrics.freeze_checked(self._freeze_detector.frozen_for(now), now)
