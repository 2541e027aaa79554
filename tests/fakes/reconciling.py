"""A device with a reconciler, without an agent: its events, its reports, and time that passes by ticks."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import Assignment, DesiredStatus, ModelRef, Observed, ObservedState
from streamfleet_worker.decisions.reconcile_actions import Action
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    CameraId,
    EngineId,
    Event,
    ModelFetched,
    PublisherId,
    Reported,
    Row,
    Unfenced,
)
from streamfleet_worker.decisions.reconciler import Reconcile
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport, PublisherReport
from tests.fakes.peers import MANIFEST, spec

DIGEST = MANIFEST.digest
ENGINE = EngineId(DIGEST, 1)
CAMERA = CameraId("door", 1)


def assignment(
    generation: int = 1,
    desired_status: DesiredStatus = "run",
    *,
    run_generation: int = 1,
    pipeline_id: str = "door",
) -> Assignment:
    return Assignment(
        pipeline_id=pipeline_id,
        generation=generation,
        run_generation=run_generation,
        desired_status=desired_status,
        on_disconnect="continue",
        spec=spec("rtsp://h/door"),
    )


def movable(generation: int = 1) -> Assignment:
    return replace(assignment(generation), on_disconnect="stop")


def row_of(stored: Assignment, incarnation: int, serving: tuple[ModelRef, ...] | None = None) -> Row:
    """What is stored of a run with this assignment. `serving`: if its cameras have other models than it."""
    if serving is None:
        serving = stored.spec.ordered_models if incarnation else ()
    return Row(
        pipeline_id=stored.pipeline_id,
        generation=stored.generation,
        run_generation=stored.run_generation,
        incarnation=incarnation,
        assignment=stored if stored.on_disconnect == "continue" else None,
        serving=serving,
    )


def says(
    state: ObservedState = ObservedState.RUNNING,
    *,
    generation: int = 1,
    emitted: int = 1,
    waiting: bool = False,
    reason: str = "",
    camera: CameraId = CAMERA,
    sources: tuple[SourceStat, ...] = (),
) -> Reported:
    report = CameraReport(
        generation=generation,
        state=state,
        reason=reason,
        waiting_for_engine=waiting,
        emitted=emitted,
        sources=sources,
        dropped={},
        fps=20.0,
        report={},
    )
    return Reported(camera, report)


def engine_says(state: str = "ready", reason: str = "", oldest_run: float = 0.0) -> Reported:
    return Reported(ENGINE, EngineReport(state, reason, 1, oldest_run))  # type: ignore[arg-type]


class Device:
    """A reconcile in a world in which time passes by ticks, and the publisher and what is named are well."""

    def __init__(self, *rows: Row) -> None:
        self.chance = 0.5  # of the jitter
        self.core = Reconcile(rows, lambda: self.chance)
        self.now = 0.0
        self.well: list[Event] = [Reported(PublisherId(1), PublisherReport(0, 0, 0))]
        self.core.tick(0.0)

    def feed(self, *events: Event) -> list[Action]:
        actions: list[Action] = []
        for event in events:
            actions += self.core.receive(event, self.now)
            self.core.check()
        return actions

    def wait(self, seconds: float) -> list[Action]:
        """So many seconds, with a report of each child that is well in each tick."""
        actions: list[Action] = []
        for _ in range(round(seconds * 10)):
            self.now = round(self.now + 0.1, 3)
            actions += self.feed(*self.well)
            actions += self.core.tick(self.now)
            self.core.check()
        return actions

    @property
    def observed(self) -> tuple[Observed, ...]:
        return self.core.observed()

    @property
    def state(self) -> ObservedState:
        (observed,) = self.observed
        return observed.state


def running(first: Assignment | None = None) -> Device:
    """A device with one camera that runs, at t = 0."""
    device = Device()
    device.feed(Unfenced(), Adopted((first or assignment(),)), ModelFetched(DIGEST, MANIFEST))
    device.feed(engine_says(), says(generation=(first or assignment()).generation))
    device.well += [engine_says()]
    return device
