"""What a pipeline does with one model, summed up over time. Pure."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from streamfleet_core.protocol.tasks.trials import ShadowStat
from streamfleet_core.protocol.values import Finite, Natural

# Seconds for which a pipeline must run before its figures count: older ones may still be shown.
SETTLING = 2.0
_LATENCIES = 600  # of which the median is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A pipeline at one moment, as the fleet knows it."""

    model: str  # desired
    status: str
    reason: str = ""
    device: str | None = None
    restarts: int = 0  # of its process, in its present run
    uses_new: bool = False  # the new model is in use, and not only desired
    applied: bool = True  # its device has carried out what is desired
    trouble: str = ""  # why the desired model can never be used, so that the former one goes on
    crashes: int = 0  # of the engine of the model in use, since the pipeline was given it
    at: float | None = None  # seconds of the device's clock, of the following; None: they are unknown
    frames: int = 0  # emitted since its process started
    objects: int = 0  # found in them
    latency: float | None = None  # seconds from capture to emission
    shadow: ShadowStat | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a pipeline has done within some time."""

    seconds: Finite = 0.0
    frames: Natural = 0
    objects: Natural = 0
    latency: Finite | None = None  # the median, in seconds

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds if self.seconds else 0.0

    @property
    def objects_per_frame(self) -> float:
        """Objects in a frame, on average."""
        return self.objects / self.frames if self.frames else 0.0


class Recorder:
    """Sums up what is seen of one pipeline while it runs, beginning with what was known before."""

    def __init__(self, known: Figures | None = None) -> None:
        known = known or Figures()
        self._seconds, self._frames, self._objects = known.seconds, known.frames, known.objects
        self._latencies = deque(filter(None, [known.latency]), maxlen=_LATENCIES)
        self._running_since: float | None = None
        self._last: Seen | None = None

    def record(self, seen: Seen) -> None:
        """Add what is seen now. Only the time in which the pipeline runs counts."""
        if seen.status != "running" or seen.at is None:
            self._running_since = None
            return
        last, self._last = self._last, seen
        if last is None or last.at is None or last.device != seen.device or seen.at < last.at:
            self._running_since = None  # its clock is another one
        if self._running_since is None:
            self._running_since = seen.at
            return
        assert last is not None
        assert last.at is not None
        if seen.at == last.at or last.at - self._running_since < SETTLING:
            return
        started_again = seen.frames < last.frames
        self._seconds += seen.at - last.at
        self._frames += seen.frames if started_again else seen.frames - last.frames
        self._objects += seen.objects if started_again else max(0, seen.objects - last.objects)
        if seen.latency is not None:
            self._latencies.append(seen.latency)

    @property
    def figures(self) -> Figures:
        """What was recorded."""
        latency = round(statistics.median(self._latencies), 6) if self._latencies else None
        return Figures(round(self._seconds, 3), self._frames, self._objects, latency)
