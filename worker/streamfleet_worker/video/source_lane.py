"""One source of a pipeline as a frame loop sees it: its buffer, its pace, its tracker and its counters."""

from __future__ import annotations

from streamfleet_core.protocol.source_reference import is_finite
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.ipc.playback_position import Progress
from streamfleet_worker.video.detection.tracker import Tracker
from streamfleet_worker.video.frame import Frame, Image
from streamfleet_worker.video.sources.buffer import FrameBuffer, Signal
from streamfleet_worker.video.sources.buffer_policy import consumption_of, filling_of
from streamfleet_worker.video.sources.freeze_detector import FreezeDetector, checksum
from streamfleet_worker.video.sources.pacing import HoldIntervals, Pace
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics

_FILE_FRAMES = 4  # decoded ahead
_LIVE_FRAMES = 2  # the newest, and one that it may overtake


class SourceLane:
    """The frame loop's thread owns all but the buffer and the metrics, which lock themselves."""

    def __init__(
        self,
        source_id: int,
        spec: SourceSpec,
        *,
        wakeup: Signal,
        metrics: SourceMetrics,
        progress: Progress,
        frames: int | None = None,  # that are decoded ahead; None: as many as suit the source
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
        self.holds = HoldIntervals()
        self.tracker: Tracker | None = None
        self.done = (
            False  # set by the frame loop when every frame of it has been dealt with; any thread may read it
        )
        self._progress = progress
        self._freeze_detector = FreezeDetector()

    @property
    def finite(self) -> bool:
        """Every frame of it is wanted, and it has an end."""
        return self.buffer.finite

    @property
    def exhausted(self) -> bool:
        """It is finite, and its last frame has been taken. For the frame loop's thread."""
        return self.finite and self.buffer.exhausted

    def take(self, now: float) -> Frame | None:
        """The frame that is next; those that it has overtaken are counted."""
        frames = self.buffer.take(now)
        for overtaken in frames[:-1]:
            self.metrics.dropped("eager")
            self.buffer.give_back(overtaken.image)
        if not frames:
            return None
        self._look(frames[-1].image, now)
        return frames[-1]

    def drain(self, cause: str, now: float) -> None:
        """Drop all frames that there are."""
        while frames := self.buffer.drain(now):
            self._look(frames[-1].image, now)
            self.metrics.dropped(cause, len(frames))
            for frame in frames:
                self.buffer.give_back(frame.image)

    def advance(self, frame_id: int) -> None:
        """Note for a later process that it must not give this frame again."""
        self._progress.advance(frame_id, self.source_id)

    def _look(self, image: Image, now: float) -> None:
        height, width = image.shape[:2]
        self.metrics.seen(width, height)
        if not self.finite and self._freeze_detector.due(now):
            self._freeze_detector.look(checksum(image), now)
            self.metrics.looked(self._freeze_detector.frozen_for(now), now)
