"""A source of a pipeline as programs see it: its properties and its state, under Roboflow's names."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from streamfleet_worker.video.source_lane import SourceLane


class StreamState(enum.Enum):
    """The states of a source."""

    NOT_STARTED = "NOT_STARTED"
    INITIALISING = "INITIALISING"
    RESTARTING = "RESTARTING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    MUTED = "MUTED"
    TERMINATING = "TERMINATING"
    ENDED = "ENDED"
    ERROR = "ERROR"


class BufferFillingStrategy(str, enum.Enum):
    """Treatment of a new frame when the buffer of a source is full."""

    WAIT = "WAIT"
    DROP_OLDEST = "DROP_OLDEST"
    ADAPTIVE_DROP_OLDEST = "ADAPTIVE_DROP_OLDEST"
    DROP_LATEST = "DROP_LATEST"
    ADAPTIVE_DROP_LATEST = "ADAPTIVE_DROP_LATEST"


class BufferConsumptionStrategy(str, enum.Enum):
    """Choice of the frame that is taken from the buffer next."""

    LAZY = "LAZY"  # the oldest
    EAGER = "EAGER"  # the newest; the others are dropped


@dataclass(frozen=True, slots=True)
class SourceProperties:
    """The properties that an open source declares."""

    width: int  # pixels
    height: int  # pixels
    total_frames: int  # below 1 if unknown
    is_file: bool
    fps: float  # 0 if unknown
    is_reconnectable: bool | None = None
    timestamp_created: datetime | None = None  # local time without a zone


@dataclass(frozen=True, slots=True)
class SourceMetadata:
    """A source in a report."""

    source_properties: SourceProperties | None  # None before it was opened
    source_reference: str | int  # without credentials
    buffer_size: int  # frames
    state: StreamState
    buffer_filling_strategy: BufferFillingStrategy | None
    buffer_consumption_strategy: BufferConsumptionStrategy | None
    source_id: int | None


class VideoSource:
    """A read-only view of one source of a pipeline. Any thread may use it."""

    def __init__(self, lane: SourceLane) -> None:
        self._lane = lane
        self.source_id = lane.source_id

    def describe_source(self) -> SourceMetadata:
        """The current properties and state."""
        stat = self._lane.metrics.source_stat(time.monotonic())
        buffer = self._lane.buffer
        return SourceMetadata(
            source_properties=self.properties,
            source_reference=stat.reference,
            buffer_size=buffer.capacity,
            state=StreamState(stat.state),
            buffer_filling_strategy=BufferFillingStrategy(buffer.filling),
            buffer_consumption_strategy=BufferConsumptionStrategy(buffer.consumption),
            source_id=self.source_id,
        )

    @property
    def properties(self) -> SourceProperties | None:
        """The properties that it declares; None before it was opened."""
        given: dict[str, Any] | None = self._lane.metrics.properties
        if given is None:
            return None
        return SourceProperties(
            **{**given, "timestamp_created": datetime.fromisoformat(given["timestamp_created"])}
        )
