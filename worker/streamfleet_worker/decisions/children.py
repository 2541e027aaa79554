"""The records of child processes: when one is stuck, and how it is stopped.

started --report--> heard --no report in time--> killed --exit--> `restart_policy` --> started
                          --stop asked, no exit in time--> killed
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.tasks.trials import Shadow
from streamfleet_core.protocol.values import Assignment, ModelRef, ObservedState, PipelineSpec
from streamfleet_worker.decisions.reconcile_actions import Action, KillChild, StopChild
from streamfleet_worker.decisions.reconcile_events import CameraId, ChildId
from streamfleet_worker.ipc.child_messages import CameraReport

START_TIMEOUT = 30.0  # seconds to a child's first report
REPORT_TIMEOUT = 5.0  # seconds between two reports
STOP_TIMEOUT = 1.0  # seconds from asking a child to stop to killing it
STALL_TIMEOUT = 10.0  # seconds in which a running camera emits nothing

# What a process does to itself. A signal from outside is no fault of what it runs.
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)

_REPORT_DELAY = 2.0  # seconds until a camera has reported a silent source that it handles itself

Id = TypeVar("Id", bound=ChildId)


@dataclass(slots=True, kw_only=True)
class Child(Generic[Id]):
    """A process that was started and has not exited."""

    id: Id
    started_at: float
    heard_at: float | None = None  # the last report
    asked_at: float | None = None  # to stop
    killed_for: str | None = None  # the reason, once it was killed

    @property
    def staying(self) -> bool:
        """It was neither asked to stop nor killed."""
        return self.asked_at is None and self.killed_for is None

    def silence(self, now: float, limit: float = REPORT_TIMEOUT) -> str | None:
        """Return a complaint if the child has not reported in time."""
        if self.heard_at is None:
            if now - self.started_at >= START_TIMEOUT:
                return f"no sign of life for {START_TIMEOUT:.0f} s after its start"
        elif now - self.heard_at >= limit:
            return f"no report for {limit:.0f} s"
        return None

    def deadline(self, limit: float = REPORT_TIMEOUT) -> float:
        """Return when it must be looked at again, if nothing is heard of it until then."""
        if self.killed_for is not None:
            return math.inf
        if self.asked_at is not None:
            return self.asked_at + STOP_TIMEOUT
        return self.started_at + START_TIMEOUT if self.heard_at is None else self.heard_at + limit

    def stop(self, now: float) -> list[Action]:
        """Ask it to stop, and kill it if it has not stopped after `STOP_TIMEOUT`."""
        if self.killed_for is not None:
            return []
        if self.asked_at is None:
            self.asked_at = now
            return [StopChild(self.id)]
        if now - self.asked_at >= STOP_TIMEOUT:
            return [self.kill("it did not stop when it was asked")]
        return []

    def kill(self, reason: str) -> KillChild:
        """Kill it."""
        self.killed_for = reason
        return KillChild(self.id, reason)

    def postpone(self, gap: float) -> None:
        """Shift all deadlines by the time for which the agent was suspended."""
        self.started_at += gap
        if self.heard_at is not None:
            self.heard_at += gap


@dataclass(slots=True)
class Camera(Child[CameraId]):
    """The process of a pipeline."""

    told: Assignment = field(kw_only=True)  # the last assignment that it was sent
    moved_at: float | None = None  # when it last moved on; None while it need not rise
    shows: bool = False  # it was told to make previews
    # In use until the camera reports the generation of the present models; (): these are in use.
    former: tuple[ModelRef, ...] = ()
    swap_generation: int = 0  # this generation
    shadow: Shadow | None = None  # that it was told

    @property
    def run_generation(self) -> int:
        """The run of the pipeline to which it belongs."""
        return self.told.run_generation

    @property
    def digests(self) -> set[str]:
        """The digests of its models."""
        shadows = () if self.shadow is None else (self.shadow.model,)
        return {model.digest for model in (*self.told.spec.models, *self.models, *shadows)}

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """The models in use: that of the pipeline, then that of each stage."""
        return self.former or self.told.spec.ordered_models

    def can_become(self, assignment: Assignment) -> bool:
        """Whether this process can apply the assignment without a restart."""
        told = self.told
        if assignment is told:  # as at nearly each turn
            return True
        return (
            assignment.run_generation == told.run_generation
            # Whether the fence applies is fixed at the start of a camera.
            and assignment.on_disconnect == told.on_disconnect
            and assignment.spec.can_update_to(told.spec)
            # What is paused has nothing to lose, and keeps frames of a file that only its engine can read.
            and (
                assignment.desired_status != "pause"
                or assignment.spec.ordered_models == told.spec.ordered_models
            )
        )

    def tell(self, assignment: Assignment, now: float) -> None:
        """Record that it is sent an assignment which it can become."""
        if assignment.spec.ordered_models != self.told.spec.ordered_models:
            self.former, self.swap_generation = self.models, assignment.generation
        self.told = assignment
        self.moved_at = None if self.moved_at is None else now

    def reported(self, report: CameraReport, before: CameraReport | None, now: float) -> None:
        """Record a report; `before` is the previous one of this camera."""
        self.heard_at = now
        if report.generation >= self.swap_generation:
            self.former = ()
        if report.state is not ObservedState.RUNNING or report.waiting_for_engine:
            self.moved_at = None
        elif self.moved_at is None or before is None or _moved(report) != _moved(before):
            self.moved_at = now

    def stall(self, report: CameraReport | None, now: float) -> str | None:
        """Return a complaint if the camera reports that it runs, and emits nothing for too long."""
        if self.moved_at is None:
            return None
        limit = self._stall_limit(report)
        if now - self.moved_at >= limit:
            return f"it reports that it runs, but emitted nothing for {limit:.0f} s"
        return None

    def next_look(self, report: CameraReport | None) -> float:
        """Return when it must be looked at again, if it does not report until then."""
        if self.moved_at is None or not self.staying:
            return self.deadline()
        return min(self.deadline(), self.moved_at + self._stall_limit(report))

    def _stall_limit(self, report: CameraReport | None) -> float:
        """Seconds for which it may emit nothing."""
        own = report.source_timeout + _REPORT_DELAY if report is not None else 0.0
        sources = report.sources if report is not None else ()
        return max(STALL_TIMEOUT, 3 * _interval(self.told.spec, sources), own)

    def postpone(self, gap: float) -> None:
        """Shift all deadlines by the time for which the agent was suspended."""
        Child.postpone(self, gap)  # `super()` does not work in a dataclass with slots
        if self.moved_at is not None:
            self.moved_at += gap


def _moved(report: CameraReport) -> int:
    """Frames that were emitted, or needed no inference."""
    return report.emitted + sum(source.dropped.get("still", 0) for source in report.sources)


def exit_reason(what: str, code: int | None) -> str:
    """Return why the process of a camera, engine or publisher ended, or could not be started."""
    return f"the {what} process {'could not be started' if code is None else how_it_ended(code)}"


def is_fault(code: int | None) -> bool:
    """Whether a process ended by a fault in native code."""
    return code is not None and -code in _FAULTS


def how_it_ended(code: int) -> str:
    """Describe an exit code."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _interval(spec: PipelineSpec, sources: tuple[SourceStat, ...]) -> float:
    """Seconds between two frames of the fastest running source, if each is as slow as its limit allows."""
    running = {source.source_id for source in sources if source.state == "RUNNING"}
    limits = [source.max_fps or spec.max_fps for source in spec.sources]
    of_running = [limits[number] for number in sorted(running) if number < len(limits)]
    return min(0.0 if limit is None else 1 / limit for limit in of_running or limits)
