"""A reader with a test behind it: what it plays, when it ends, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamfleet_core.protocol.source_reference import is_finite
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import Filling, SourceSpec
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.source_reader import Reader
from streamfleet_worker.video.sources.buffer import FrameBuffer
from streamfleet_worker.video.sources.open_source import quiet_libraries
from streamfleet_worker.video.sources.packet_skipper import Demand
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics
from tests.fakes.peers import wait_for


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of a frame whose picture is gone."""

    frame_id: int
    decoded_at: float  # monotonic seconds
    size: tuple[int, int]  # pixels, width and height
    grey: int
    media_time: float  # seconds


class _Metrics(SourceMetrics):
    """Keeps what was said of each loss: soon after it, the next attempt may have changed that."""

    def __init__(self, reference: str, when_lost: Callable[[], None]) -> None:
        super().__init__(reference, now=time.monotonic(), changed=Wakeup())
        self.losses: list[SourceStat] = []
        self._when_lost = when_lost

    def source_is(self, state: str) -> None:
        super().source_is(state)
        if state == "ERROR":
            self._when_lost()
            self.losses.append(self.source_stat(time.monotonic()))


class Playing:
    """A source that is played, with its frames and its metrics.

    `when_lost` is called before the next attempt to open it begins.
    """

    def __init__(
        self,
        reference: str,
        *,
        position: int = 0,
        when_lost: Callable[[], None] = lambda: None,
        drop_cause: Callable[[float], str | None] = lambda _: None,
        demand: Callable[[], Demand | None] = lambda: None,
        **spec: Any,
    ) -> None:
        quiet_libraries()
        self.spec = SourceSpec(reference, **spec)
        self.metrics = _Metrics(reference, when_lost)
        filling: Filling = "WAIT" if is_finite(self.spec) else "DROP_OLDEST"
        # Of a live source too none is lost while the test stands still.
        self.buffer = FrameBuffer(1000, wakeup=Wakeup(), filling=filling)
        self.reader = Reader(
            self.spec,
            position=position,
            buffer=self.buffer,
            metrics=self.metrics,
            drop_cause=drop_cause,
            demand=demand,
        )
        self.frames: list[Seen] = []
        self.began = time.monotonic()
        self.reader.start()

    @property
    def stat(self) -> SourceStat:
        return self.metrics.source_stat(time.monotonic())

    @property
    def ids(self) -> list[int]:
        """Of all frames that came until now."""
        while taken := self.buffer.take(time.monotonic()):
            for frame in taken:
                picture, stamp = frame.picture, frame.stamp
                size, grey = (picture.width, picture.height), round(picture.bgr().mean())
                seen = Seen(stamp.frame_id, stamp.decoded_at, size, grey, stamp.media_time)
                self.frames.append(seen)
        return [frame.frame_id for frame in self.frames]

    def until(self, count: int) -> list[int]:
        """The ids, when so many frames have come."""
        wait_for(lambda: len(self.ids) >= count, f"{count} frames; {self.stat}")
        return self.ids

    def until_lost(
        self, holds: Callable[[SourceStat], bool] = lambda _: True, *, after: int = 0
    ) -> SourceStat:
        """What was said of it at the first loss, behind so many, of which this holds."""

        def lost() -> SourceStat | None:
            self.ids  # noqa: B018 - makes room in the buffer
            return next((loss for loss in self.metrics.losses[after:] if holds(loss)), None)

        return wait_for(lost, f"a loss; {self.metrics.losses}")

    def until_ended(self) -> list[int]:
        """All ids."""
        wait_for(lambda: self.ids and self.buffer.exhausted, "the end")
        assert self.metrics.state == "ENDED"
        return self.ids
