"""Another model infers some frames of a camera, and what both models find is compared.

It takes what is left: one frame at a time, a share of the frames, at most half of the time, and the lowest
priority at its engine. What it finds is published nowhere.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamfleet_core.models.agreement import Box, FrameAgreement, compare
from streamfleet_core.protocol.tasks.trials import ShadowCounts
from streamfleet_worker.camera.in_flight_frame import InFlightFrame
from streamfleet_worker.engine.client import EngineClient
from streamfleet_worker.engine.messages import Done, Turn
from streamfleet_worker.ipc.child_messages import Compare, ModelConfig, PostProcessing
from streamfleet_worker.video.detection.compared_boxes import boxes_of
from streamfleet_worker.video.detection.findings import Findings
from streamfleet_worker.video.detection.letterbox import Geometry, Letterbox
from streamfleet_worker.video.detection.postprocess import findings_of
from streamfleet_worker.video.detection.selection import Selection

BOXES = 100  # of a frame and model, the surest: the work of comparing grows with the square
_REST = 1.0  # times the duration of an inference, before the next one
_LATENCIES = 200  # of which the median is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """A frame that both models infer."""

    frame: InFlightFrame
    source_id: int
    findings: Findings  # of the pipeline's own model
    labels: Sequence[str]  # of the pipeline's own model
    rules: PostProcessing
    selection: Selection  # of the shadow's classes, and of the places that the source keeps


@dataclass(frozen=True, slots=True)
class _Running:
    """A frame at the engine of the shadow."""

    shadowed: Shadowed
    geometry: Geometry
    began: float  # monotonic seconds


class ShadowModel:
    """The model, the client of its engine, and what was counted. Only one thread may use it.

    `keep` is called with each frame in which both differ, and returns whether it was picked as a sample.
    """

    def __init__(self, model: ModelConfig, compare: Compare, keep: Callable[[Shadowed], bool]) -> None:
        self.model = model
        self._share = compare.share
        self._keep = keep
        self._engine = EngineClient(model.engine_socket, model.manifest, slots=1)
        self._letterbox = Letterbox(model.manifest)
        self._running: _Running | None = None
        self._slot = 0
        self._due = 0.0  # frames, as a part of one
        self._rest_until = 0.0  # monotonic seconds
        self._totals = _Totals()

    @property
    def counts(self) -> ShadowCounts:
        """What was counted."""
        return self._totals.counts

    def wants(self, now: float) -> bool:
        """Whether the next frame is one that both infer. Call it once for each frame."""
        self._due = min(1.0, self._due + self._share)
        is_free = self._engine.connected and self._running is None and now >= self._rest_until
        if self._due < 1.0 or not is_free:
            return False
        self._due = 0.0
        return True

    def offer(self, shadowed: Shadowed, now: float) -> None:
        """Infer a frame, if nothing else is inferred."""
        picture = shadowed.frame.picture
        if self._running is not None or picture is None or (slot := self._engine.borrow()) is None:
            return
        geometry = self._letterbox.write(picture, self._engine.slot(slot).input)
        self._slot, self._running = slot, _Running(shadowed, geometry, now)
        self._engine.submit(slot, shadowed.source_id, now)

    def step(self, now: float) -> None:
        """Connect, and take the result, as far as is possible without waiting."""
        if self._engine.connect(now):
            self._engine.set_priority("low", now)
        while (answer := self._engine.answer(now)) is not None:
            if isinstance(answer, Turn) or self._running is None:  # it asks for none
                continue
            running, self._running = self._running, None
            self._rest_until = now + (now - running.began) * _REST
            if not isinstance(answer, Done) or not self._compare(running, now - running.began):
                self._totals.failed += 1
            self._engine.give_back(self._slot)

    def _compare(self, running: _Running, duration: float) -> bool:
        """Compare what both have found. Returns whether the output of the shadow could be read."""
        shadowed, geometry, manifest = running.shadowed, running.geometry, self.model.manifest
        try:
            found = findings_of(
                self._engine.slot(self._slot).outputs,
                geometry,
                manifest=manifest,
                rules=shadowed.rules,
                selection=shadowed.selection,
            )
            boxes = boxes_of(found, manifest.labels, geometry)
        except (ValueError, IndexError):
            return False
        own = boxes_of(shadowed.findings, shadowed.labels, geometry)
        agreement = compare(_surest(own), _surest(boxes))
        frame = shadowed.frame
        own_duration = None if frame.ready_at is None else frame.ready_at - frame.submitted_at
        self._totals.add(agreement, duration, own_duration)
        if _differs(agreement) and self._keep(shadowed):
            self._totals.samples += 1
        return True

    def fileno(self) -> int | None:
        """The descriptor to poll for answers; None without an engine."""
        return self._engine.fileno()

    def wait(self, now: float) -> float:
        """Seconds until an engine that is gone may be asked again."""
        return self._engine.wait(now)

    def close(self) -> None:
        """Disconnect from the engine."""
        self._engine.close()


class _Totals:
    """Sums over all frames."""

    def __init__(self) -> None:
        self.frames = self.own_boxes = self.boxes = self.paired = self.same_class = 0
        self.blind = self.differing = self.failed = self.samples = 0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._own_latencies: deque[float] = deque(maxlen=_LATENCIES)

    def add(self, agreement: FrameAgreement, duration: float, own_duration: float | None) -> None:
        pairs = len(agreement.pairs)
        self.frames += 1
        self.own_boxes += pairs + len(agreement.only_first)
        self.boxes += pairs + len(agreement.only_second)
        self.paired += pairs
        self.same_class += pairs - len(agreement.other_class)
        self.blind += agreement.blind
        self.differing += _differs(agreement)
        self._latencies.append(duration)
        if own_duration is not None:
            self._own_latencies.append(own_duration)

    @property
    def counts(self) -> ShadowCounts:
        return ShadowCounts(
            frames=self.frames,
            own_boxes=self.own_boxes,
            boxes=self.boxes,
            paired=self.paired,
            same_class=self.same_class,
            blind=self.blind,
            differing=self.differing,
            failed=self.failed,
            samples=self.samples,
            own_latency=_median(self._own_latencies),
            latency=_median(self._latencies),
        )


def _differs(agreement: FrameAgreement) -> bool:
    """Whether only one model finds an object, or both give it different classes."""
    return bool(agreement.only_first or agreement.only_second or agreement.other_class)


def _surest(boxes: list[Box]) -> list[Box]:
    return sorted(boxes, key=lambda box: -box.confidence)[:BOXES]


def _median(numbers: deque[float]) -> float | None:
    return round(statistics.median(numbers), 6) if numbers else None
