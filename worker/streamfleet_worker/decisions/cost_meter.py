"""What pipelines cost on this device, from the counters of its processes. Pure.

Each figure is the quotient of two growths: CPU time of cameras by frames, of engines by inferences. Growth of
the past counts less with each new one, so that a figure follows a change within a minute and does not
tremble. What does not run keeps its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from streamfleet_core.protocol.costs import Cost, Measured
from streamfleet_core.protocol.limits import MAX_COST_SECONDS, MAX_COSTS, MAX_DECODER_NAME, MAX_FPS
from streamfleet_core.protocol.values import ObservedState
from streamfleet_worker.decisions.pipeline_table import PipelineView
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport, PublisherReport

INTERVAL = 5.0  # seconds between two samples
LEAST_FRAMES = 10  # inferences, before which nothing is told
NOTICEABLE = 0.1  # relative change that is told
_KEPT = 0.8  # of the growth so far, at each sample with more

Key = tuple[str, str, str, int, int]  # digest, variant, decoder, width and height
K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Ratio:
    """The quotient of two growths."""

    spent: float = 0.0
    count: float = 0.0
    has_grown: bool = False  # since it faded

    def add(self, spent: float, count: float) -> None:
        if count > 0 and spent >= 0:
            self.spent += spent
            self.count += count
            self.has_grown = True

    def fade(self) -> None:
        if self.has_grown:
            self.spent *= _KEPT
            self.count *= _KEPT
            self.has_grown = False

    @property
    def value(self) -> float:
        return self.spent / self.count if self.count else 0.0


@dataclass(slots=True)
class _CameraCosts:
    """The costs of the cameras of one kind."""

    reading: _Ratio = field(default_factory=_Ratio)
    frame: _Ratio = field(default_factory=_Ratio)
    delivered: _Ratio = field(default_factory=_Ratio)  # frames by seconds
    memory: int = 0
    frames: int = 0


@dataclass(slots=True)
class _EngineCosts:
    """The costs of one model."""

    cpu: _Ratio = field(default_factory=_Ratio)
    accelerator: float = 0.0
    memory: int = 0
    inferences: int = 0


@dataclass(frozen=True, slots=True)
class _CameraCounters:
    """The counters of a camera process at a sample."""

    at: float
    cpu: float
    frame_cpu: float
    received: int
    inferred: int


class CostMeter:
    """Measures the costs. Call `sample` every `INTERVAL` seconds."""

    def __init__(self) -> None:
        self.measured = Measured()  # replaced when something has changed noticeably
        self._cameras: dict[tuple[str, int], _CameraCounters] = {}  # by pipeline and incarnation
        self._engines: dict[tuple[str, int], tuple[float, int]] = {}  # by model and start: CPU, inferences
        self._publisher: tuple[float, int] | None = None  # CPU, messages
        self._of_cameras: dict[Key, _CameraCosts] = {}
        self._of_engines: dict[tuple[str, str], _EngineCosts] = {}  # by digest and variant
        self._of_messages = _Ratio()

    def sample(
        self,
        pipelines: Iterable[PipelineView],
        engines: Mapping[tuple[str, int], EngineReport],
        publisher: PublisherReport | None,
        now: float,
    ) -> None:
        """Take the latest reports. `engines`: by digest of the model and number of the start."""
        views = [view for view in pipelines if view.alive and view.report is not None]
        for costs in self._of_cameras.values():
            for ratio in (costs.reading, costs.frame, costs.delivered):
                ratio.fade()
        for each in self._of_engines.values():
            each.cpu.fade()
        self._of_messages.fade()
        self._sample_engines(engines)
        self._sample_publisher(publisher)
        variants = {digest: report.variant for (digest, _), report in engines.items()}
        before, self._cameras = self._cameras, {}
        rates = {}
        for view in views:
            assert view.report is not None
            address = (view.assignment.pipeline_id, view.observed.incarnation)
            counters = self._cameras[address] = _counters(view.report, now)
            if address in before and view.observed.state is ObservedState.RUNNING:
                rate = self._sample_camera(view, counters, before[address], variants)
                if rate > 0:
                    rates[view.assignment.pipeline_id] = rate
        self._update(rates)

    def _sample_engines(self, engines: Mapping[tuple[str, int], EngineReport]) -> None:
        before, self._engines = self._engines, {}
        for address, report in engines.items():
            if report.state != "ready":
                continue
            cost = report.cost
            self._engines[address] = (cost.cpu, cost.inferences)
            costs = _newest(self._of_engines, (address[0], report.variant), _EngineCosts)
            # Without an earlier sample, all inferences of the engine are new.
            cpu, inferences = before.get(address, (0.0, 0))
            costs.cpu.add(cost.cpu - cpu, cost.inferences - inferences)
            costs.inferences += max(0, cost.inferences - inferences)
            costs.accelerator = cost.accelerator or costs.accelerator
            costs.memory = report.memory or costs.memory

    def _sample_publisher(self, report: PublisherReport | None) -> None:
        if report is None:
            return
        before, self._publisher = self._publisher, (report.cpu, report.published)
        if before is not None:
            self._of_messages.add(report.cpu - before[0], report.published - before[1])

    def _sample_camera(
        self, view: PipelineView, now: _CameraCounters, before: _CameraCounters, variants: Mapping[str, str]
    ) -> float:
        """Add the growth of one camera, and return the frames/s that its live sources deliver."""
        report, digest = view.report, view.model.digest
        assert report is not None
        received, inferred = now.received - before.received, now.inferred - before.inferred
        frame_cpu = now.frame_cpu - before.frame_cpu
        source = max(report.sources, key=lambda each: each.width * each.height)
        if received <= 0 or inferred <= 0 or not source.width:
            return 0.0
        key = (
            digest,
            variants.get(digest, ""),
            source.decoder[:MAX_DECODER_NAME],
            source.width,
            source.height,
        )
        costs = _newest(self._of_cameras, key, _CameraCosts)
        costs.reading.add(now.cpu - before.cpu - frame_cpu, received)
        costs.frame.add(frame_cpu, inferred)
        costs.delivered.add(received / len(report.sources), now.at - before.at)
        costs.memory = report.cost.memory // len(report.sources) or costs.memory
        costs.frames += inferred
        return received / (now.at - before.at)

    def _update(self, rates: Mapping[str, float]) -> None:
        costs = tuple(self._cost(key) for key in sorted(self._of_cameras) if self._is_known(key))
        rates = {name: min(round(rate, 2), MAX_FPS) for name, rate in sorted(rates.items())}
        told = {_key(cost): cost for cost in self.measured.costs}
        changed = [cost for cost in costs if _differ(told.get(_key(cost)), cost)]
        told_rates = self.measured.rates
        moved = [name for name, rate in rates.items() if _differs(told_rates.get(name, 0.0), rate)]
        if changed or moved:
            kept = {name: rate for name, rate in told_rates.items() if name in rates}
            self.measured = Measured(
                costs=costs, rates={**kept, **{name: rates[name] for name in rates if name in moved}}
            )

    def _is_known(self, key: Key) -> bool:
        engine = self._of_engines.get(key[:2])
        return (
            engine is not None
            and engine.inferences >= LEAST_FRAMES
            and self._of_cameras[key].frames >= LEAST_FRAMES
        )

    def _cost(self, key: Key) -> Cost:
        digest, variant, decoder, width, height = key
        camera, engine = self._of_cameras[key], self._of_engines[digest, variant]
        return Cost(
            digest=digest,
            variant=variant,
            decoder=decoder,
            width=width,
            height=height,
            accelerator=_seconds(engine.accelerator),
            inference=_seconds(engine.cpu.value),
            reading=_seconds(camera.reading.value),
            frame=_seconds(camera.frame.value + self._of_messages.value),
            engine_memory=engine.memory,
            camera_memory=camera.memory,
            source_fps=min(round(camera.delivered.value, 2), MAX_FPS),
            frames=camera.frames,
        )


def _newest(costs: dict[K, V], key: K, new: Callable[[], V]) -> V:
    """The costs of a key, which become the newest. Of too many, those that have not run for longest go."""
    found = costs.pop(key, None) or new()
    costs[key] = found
    while len(costs) > MAX_COSTS:
        del costs[next(iter(costs))]
    return found


def _counters(report: CameraReport, now: float) -> _CameraCounters:
    return _CameraCounters(
        now,
        report.cost.cpu,
        report.cost.frame_cpu,
        sum(source.received for source in report.sources),
        sum(source.inferred for source in report.sources),
    )


def _seconds(value: float) -> float:
    return round(min(value, MAX_COST_SECONDS), 7)


def _key(cost: Cost) -> Key:
    return cost.digest, cost.variant, cost.decoder, cost.width, cost.height


def _differ(told: Cost | None, cost: Cost) -> bool:
    if told is None:
        return True
    return any(
        _differs(getattr(told, name), getattr(cost, name))
        for name in ("accelerator", "inference", "reading", "frame", "engine_memory", "camera_memory")
    ) or _differs(told.source_fps, cost.source_fps)


def _differs(before: float, after: float) -> bool:
    return abs(after - before) > NOTICEABLE * before
