"""What a pipeline does with one model, summed up over time. Pure."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

SETTLING = (
    2.0  # seconds for which a pipeline must run before its figures count: older ones may still be shown
)
_LATENCIES = 600  # of which the median is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A pipeline at one moment, as the fleet shows it."""

    model: str
    status: str
    reason: str = ""
    device: str | None = None
    restarts: int = 0  # of its process, in its present run
    frames: int = 0  # emitted since its process started
    objects: int = 0  # found in them
    latency: float | None = None  # seconds from capture to emission


@dataclass(frozen=True, slots=True)
class Figures:
    """What a pipeline has done within some time."""

    seconds: float = 0.0
    frames: int = 0
    objects: int = 0
    latency: float | None = None  # the median, in seconds

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds if self.seconds else 0.0

    @property
    def objects_per_frame(self) -> float:
        """Objects in a frame, on average."""
        return self.objects / self.frames if self.frames else 0.0


@dataclass(slots=True)
class Recorder:
    """Sums up what is seen of one pipeline while it runs."""

    _running_since: float | None = None
    _at: float | None = None  # when it was seen last, after settling
    _frames: int = 0  # as seen last
    _objects: int = 0
    _seconds: float = 0.0
    _all_frames: int = 0
    _all_objects: int = 0
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    def record(self, seen: Seen, now: float) -> None:
        """Add what is seen now. Only the time in which the pipeline runs counts."""
        if seen.status != "running":
            self._running_since = self._at = None
            return
        if self._running_since is None:
            self._running_since = now
        if now - self._running_since < SETTLING:
            return
        if self._at is not None:
            started_again = seen.frames < self._frames
            self._seconds += now - self._at
            self._all_frames += seen.frames if started_again else seen.frames - self._frames
            self._all_objects += seen.objects if started_again else max(0, seen.objects - self._objects)
            if seen.latency is not None:
                self._latencies.append(seen.latency)
        self._at, self._frames, self._objects = now, seen.frames, seen.objects

    @property
    def figures(self) -> Figures:
        """What was recorded."""
        latency = statistics.median(self._latencies) if self._latencies else None
        return Figures(self._seconds, self._all_frames, self._all_objects, latency)
