"""Decides what to start, change, stop and kill to reach the desired state. Pure.

    pipeline_table   one camera per pipeline          model_table   one engine per model that cameras need
    publisher_plan   one publisher                    children      what all processes have in common

Events go in (`reconcile_events`), actions come out in the order to perform them (`reconcile_actions`). `now`
is CLOCK_BOOTTIME in seconds. No process, file or socket is touched here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from typing_extensions import assert_never

from streamfleet_core.protocol.costs import Measured
from streamfleet_core.protocol.limits import MAX_FIGURES
from streamfleet_core.protocol.status import EngineStat, KeepingStat, MissingAccelerator
from streamfleet_core.protocol.tasks.trials import PipelineFigures
from streamfleet_core.protocol.values import Observed
from streamfleet_worker.decisions.children import Child
from streamfleet_worker.decisions.cost_meter import CostMeter
from streamfleet_worker.decisions.model_table import ModelTable
from streamfleet_worker.decisions.pipeline_figures import figures_of
from streamfleet_worker.decisions.pipeline_table import PipelineTable, PipelineView
from streamfleet_worker.decisions.publisher_plan import PublisherPlan
from streamfleet_worker.decisions.reconcile_actions import Action
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    BrokerAbsent,
    CameraId,
    ChildId,
    EngineId,
    Event,
    Exited,
    Fenced,
    ModelFetched,
    ModelRefused,
    PublisherId,
    Report,
    Reported,
    Row,
    Stored,
    Unfenced,
)
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport, PublisherReport

MAX_IDLE = 1.0  # seconds between two looks at everything, at most
SETTLED = 2  # looks without an action: what the first one decided may have led to another decision
WAKE_GAP = 2.0  # seconds between two inputs: after a longer gap we were suspended, our children perhaps too


class Reconcile:
    """Every decision about what runs on a device.

    `rows` were stored by earlier runs of the agent; `rng` returns numbers in [0, 1) for the jitter.
    """

    def __init__(self, rows: Iterable[Row], rng: Callable[[], float]) -> None:
        self._publisher = PublisherPlan(rng)
        self._models = ModelTable(rng)
        self._pipelines = PipelineTable(rows, self._models, rng)
        self._costs = CostMeter()
        self._turned_at: float | None = None
        self._observed: tuple[Observed, ...] | None = None  # None: it may have changed
        self._quiet_looks = 0  # without an event before, and without an action
        self._idle_until = float("-inf")  # until then, only an event can lead to an action

    # inputs

    def receive(self, event: Event, now: float) -> list[Action]:
        """Handle an event.

        Each child reports once a second, mostly other counters and nothing else. Looking at all pipelines
        each time would cost the square of their number.
        """
        self._advance(now)
        if isinstance(event, Reported) and self._only_counts(event.child, event.report):
            return self._handle(event, now)
        self._observed = None
        self._wake_up()
        return self._handle(event, now) + self._converge(now)

    def tick(self, now: float) -> list[Action]:
        """Let time pass. Called ten times a second, at most of which nothing is due."""
        self._advance(now)
        if now < self._idle_until:
            return []
        self._observed = None
        self._pipelines.tick()
        killed = self._pipelines.kill_stuck(now) + self._models.kill_stuck(now)
        actions = killed + self._publisher.kill_stuck(now) + self._converge(now)
        self._quiet_looks = 0 if actions else self._quiet_looks + 1
        if self._quiet_looks >= SETTLED:
            self._idle_until = self._next_look(now)
        return actions

    # facts

    def observed(self) -> tuple[Observed, ...]:
        """The observed state, for the broker."""
        if self._observed is None:
            self._observed = self._pipelines.observed()
        return self._observed

    def pipelines(self, now: float, only: str | None = None) -> tuple[PipelineView, ...]:
        """The input of the status documents, of all pipelines or of one."""
        return self._pipelines.views(now, only)

    def engines(self) -> tuple[EngineStat, ...]:
        """The models of this device, by digest."""
        return self._models.stats()

    def sample_costs(self, now: float) -> Measured:
        """Measure what pipelines cost, and return what is known of it."""
        self._costs.sample(self._pipelines.views(now), self._models.reports(), self._publisher.report, now)
        return self._costs.measured

    def keeping(self) -> KeepingStat | None:
        """Where sent predictions are kept; None: unknown."""
        report = self._publisher.report
        return None if report is None else report.keeping

    def figures(self, models: Collection[str], now: float) -> tuple[PipelineFigures, ...]:
        """What the pipelines do that are to use one of these models, by digest."""
        views = self._pipelines.views(now)
        found = (figures_of(each, now) for each in views if each.assignment.spec.model.digest in models)
        return tuple(each for each in found if each is not None)[:MAX_FIGURES]

    def missing_accelerator(self) -> MissingAccelerator | None:
        """The accelerator that a model does not run on, although this device should have it."""
        return self._models.missing_accelerator()

    def children(self) -> set[ChildId]:
        """The processes that exist: those that should run, and those that were asked to stop."""
        return {child.id for child in self._children()}

    def is_leaving(self) -> bool:
        """Whether a movable camera is stopping. Another device may run its pipeline already.

        Until it has ended, the fence must stay closed, even if a new camera is to replace it.
        """
        return any(
            not camera.staying and camera.told.on_disconnect == "stop" for camera in self._pipelines.cameras()
        )

    def check(self) -> None:
        """Assert what is always true between two inputs."""
        self._pipelines.check(self._publisher.watched)
        self._models.check()

    # events

    def _handle(self, event: Event, now: float) -> list[Action]:
        match event:
            case Adopted():
                return self._pipelines.adopt(event.assignments, event.shadows)
            case BrokerAbsent():
                self._pipelines.resume()
            case Fenced():
                self._pipelines.fenced = True
            case Unfenced():
                self._pipelines.fenced = False
            case ModelFetched():
                self._models.fetched(event)
            case ModelRefused():
                self._models.refused(event)
            case Reported():
                return self._reported(event.child, event.report, now)
            case Exited():
                self._exited(event.child, event.code, now)
            case Stored():
                self._pipelines.stored(event.rows)
            case _:
                assert_never(event)
        return []

    def _only_counts(self, child: ChildId, report: Report) -> bool:
        match child, report:
            case CameraId(), CameraReport():
                return self._pipelines.only_counts(child, report)
            case EngineId(), EngineReport():
                return self._models.only_counts(child, report)
            case PublisherId(), PublisherReport():
                return self._publisher.only_counts(child, report)
            case _:
                return False

    def _reported(self, child: ChildId, report: Report, now: float) -> list[Action]:
        match child, report:
            case CameraId(), CameraReport():
                return self._pipelines.reported(child, report, now)
            case EngineId(), EngineReport():
                self._models.reported(child, report, now)
            case PublisherId(), PublisherReport():
                self._publisher.reported(child, report, now)
            case _:
                raise TypeError(f"expected a report of {child}, got {type(report).__name__}")
        return []

    def _exited(self, child: ChildId, code: int | None, now: float) -> None:
        match child:
            case CameraId():
                self._pipelines.exited(child, code, now)
            case EngineId():
                self._models.exited(child, code, now)
            case PublisherId():
                self._publisher.exited(child, now)
            case _:
                assert_never(child)

    # decisions

    def _advance(self, now: float) -> None:
        """Shift all deadlines by the time we were suspended, so children are not killed for our own pause."""
        gap = 0.0 if self._turned_at is None else now - self._turned_at
        self._turned_at = now
        if gap > WAKE_GAP:
            self._wake_up()
            for child in self._children():
                child.postpone(gap)

    def _wake_up(self) -> None:
        """Look at everything at the next tick."""
        self._quiet_looks = 0
        self._idle_until = float("-inf")

    def _next_look(self, now: float) -> float:
        """When the passing of time alone may lead to an action."""
        deadlines = (*self._pipelines.deadlines(), *self._models.deadlines(), self._publisher.deadline())
        return min((at for at in deadlines if now < at < now + MAX_IDLE), default=now + MAX_IDLE)

    def _children(self) -> list[Child[CameraId] | Child[EngineId] | Child[PublisherId]]:
        publisher = [] if self._publisher.child is None else [self._publisher.child]
        return [*self._models.engines(), *self._pipelines.cameras(), *publisher]

    def _converge(self, now: float) -> list[Action]:
        """Take all actions that follow from the current state."""
        wanted = self._pipelines.wanted_models()
        used = set(wanted).union(*(camera.digests for camera in self._pipelines.cameras()))
        actions = self._publisher.keep(now) + self._models.keep(wanted, used, now)
        for digest, reason in self._models.failures().items():
            self._pipelines.fail(digest, reason)
        return actions + self._pipelines.keep(self._publisher.watched, now)
