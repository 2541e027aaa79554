"""The pipelines of a device: their cameras, and their observed state. Pure decisions.

starting --report--> running, paused, reconnecting --exit--> crashed --> backoff --> starting
running --report ended--> ended, reported once it is stored
any --unassigned, fence closed--> stopping --exit--> (absent)
starting --model or camera can never work--> failed, until the spec changes

Other models take over in the running camera as soon as the engines of all of them are ready. Until then, and
if one can never work, the former models go on, also after a restart of the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from streamfleet_core.protocol.source_reference import cut_reason, shown_reason
from streamfleet_core.protocol.tasks.trials import Shadow, ShadowStat
from streamfleet_core.protocol.values import Assignment, Manifest, ModelRef, Observed, ObservedState
from streamfleet_worker.decisions.children import Camera, exit_reason, is_fault
from streamfleet_worker.decisions.model_table import ModelTable
from streamfleet_worker.decisions.reconcile_actions import (
    Action,
    ChangeCamera,
    Forget,
    Persist,
    Refuse,
    ShadowCamera,
    ShowPictures,
    StartCamera,
)
from streamfleet_worker.decisions.reconcile_events import CameraId, Row
from streamfleet_worker.decisions.restart_policy import HEALTHY, RestartPolicy
from streamfleet_worker.decisions.topic_subscriptions import is_watched
from streamfleet_worker.ipc.child_messages import CameraReport

_Following: TypeAlias = Sequence[ModelRef | None]


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """State of one pipeline. Texts are None if they do not apply."""

    row: Row
    assignment: Assignment | None = None  # the last one; None before the first since the agent's start
    gone: bool = True  # not in the last desired state
    camera: Camera | None = None
    report: CameraReport | None = None  # of the present camera, or of the last one of this run
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    crash: str | None = None  # why the last camera ended, until one works
    last_crash: str | None = None  # the same, while `restarts` counts it
    fresh_crash: bool = False  # until the next tick, so that it is reported
    restarts: int = 0  # of this run, since the agent's start
    crashes: int = 0  # cameras in a row that ended by their own fault
    failed: str | None = None  # why this run can never work
    before_end: Observed | None = None  # the reported state of an ended run, until its end is stored
    serving_generation: int | None = None  # that the last camera was told; None: none since the agent's start
    model_crashes_before: int = 0  # of the engine of the desired model, when it became that
    shadow: Shadow | None = None  # whose model infers some frames, too
    shadow_crashes_before: int = 0  # of the engine of that model

    @property
    def ended(self) -> bool:
        """This run is over."""
        ended = self.row.ended_run_generation
        return ended is not None and self.row.run_generation <= ended

    @property
    def is_desired(self) -> bool:
        """It is assigned to this device, and not to be stopped."""
        return self.assignment is not None and not self.gone and self.assignment.desired_status != "stop"

    @property
    def generation(self) -> int:
        """The generation that is carried out. A change is done when the camera reports it."""
        assert self.assignment is not None
        if self.camera is None or not self.is_desired or self.ended or self.failed is not None:
            return self.assignment.generation
        if self.camera.heard_at is None or self.report is None:
            return self.camera.told.generation
        return min(self.camera.told.generation, self.report.generation)

    def serve(self, told: Assignment) -> None:
        """Record what its camera is told."""
        self.serving_generation = told.generation
        assert self.assignment is not None
        is_done = told.generation == self.assignment.generation
        goes_on = told.spec.ordered_models != self.assignment.spec.ordered_models
        served = told.generation if is_done and goes_on else 0
        self.row = replace(self.row, serving=told.spec.ordered_models, served=served)

    def restart(self) -> None:
        """Forget the last run: nothing is known of the next one."""
        self.report = None
        self.restart_policy = RestartPolicy()
        self.crash = self.last_crash = self.failed = self.before_end = None
        self.restarts = self.crashes = 0
        self.row = replace(self.row, serving=())


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineView:
    """One pipeline, for the status document."""

    assignment: Assignment
    observed: Observed
    alive: bool  # its camera process exists
    report: CameraReport | None  # the last one
    report_age: float | None  # seconds; None: the present camera has not reported
    last_crash: str  # why it was restarted last
    model: ModelRef  # in use, which may be the former one
    model_crashes: int = 0  # of its engine
    model_trouble: str = ""  # why the desired model can never be used, while the former one goes on
    shadow: ShadowStat | None = None


class PipelineTable:
    """Runs one camera per pipeline of the desired state.

    `rows` were stored by earlier runs of the agent; `rng` returns numbers in [0, 1) for the jitter.
    """

    def __init__(self, rows: Iterable[Row], models: ModelTable, rng: Callable[[], float]) -> None:
        self._models = models
        self._rng = rng
        self._pipelines = {row.pipeline_id: Pipeline(row=row) for row in rows}
        self._adopted = False  # before the first desired state, no stored row is removed
        self.fenced = True  # movable pipelines must not run

    # events

    def adopt(self, assignments: tuple[Assignment, ...], shadows: tuple[Shadow, ...] = ()) -> list[Action]:
        """Replace the desired state."""
        self._adopted = True
        by_pipeline = {shadow.pipeline_id: shadow for shadow in shadows}
        for pipeline in self._pipelines.values():
            pipeline.gone = True
        actions: list[Action] = []
        for assignment in assignments:
            row = Row(
                pipeline_id=assignment.pipeline_id,
                generation=assignment.generation,
                run_generation=assignment.run_generation,
                incarnation=0,
            )
            pipeline = self._pipelines.setdefault(assignment.pipeline_id, Pipeline(row=row))
            pipeline.gone = False
            actions += self._adopt_one(pipeline, assignment)
            shadow = by_pipeline.get(assignment.pipeline_id)
            if shadow is not None and shadow != pipeline.shadow:
                self._models.try_again(shadow.model.digest)
                pipeline.shadow_crashes_before = self._models.crashes(shadow.model.digest)
            pipeline.shadow = shadow
        return actions

    def resume(self) -> None:
        """Desire what was stored, until the desired state is known."""
        if self._adopted:
            return
        for pipeline in self._pipelines.values():
            if pipeline.assignment is None and pipeline.row.assignment is not None:
                pipeline.assignment = pipeline.row.assignment
                pipeline.gone = False

    def _adopt_one(self, pipeline: Pipeline, assignment: Assignment) -> list[Action]:
        row = pipeline.row
        if assignment.generation < row.generation:
            return [Refuse(assignment.pipeline_id, assignment.generation, row.generation)]
        former = pipeline.assignment
        is_first = former is None
        is_new_run = assignment.run_generation != row.run_generation
        has_new_models = former is None or former.spec.models != assignment.spec.models
        pipeline.assignment = assignment
        if is_new_run or (has_new_models and pipeline.failed is not None):
            pipeline.restart()
        if has_new_models:
            pipeline.model_crashes_before = self._models.crashes(assignment.spec.model.digest)
        if has_new_models or is_new_run:
            for model in assignment.spec.models:
                self._models.try_again(model.digest)
        if not is_first and (assignment.generation, assignment.run_generation) == (
            row.generation,
            row.run_generation,
        ):
            return []
        pipeline.row = replace(
            pipeline.row,
            generation=assignment.generation,
            run_generation=assignment.run_generation,
            assignment=assignment if assignment.on_disconnect == "continue" else None,
        )
        return [Persist(pipeline.row)]

    def reported(self, child_id: CameraId, report: CameraReport, now: float) -> list[Action]:
        """Record a report. Only the present camera of a pipeline counts."""
        present = self._present(child_id)
        if present is None:
            return []
        pipeline, camera = present
        before = pipeline.report if camera.heard_at is not None else None
        if before is None or report.reason != before.reason:  # computed once, not whenever it is read
            report = replace(report, reason=shown_reason(report.reason))
        camera.reported(report, before, now)
        if camera.run_generation != pipeline.row.run_generation:
            return []  # it belongs to an earlier run
        if report.state is ObservedState.ENDED and not pipeline.ended and pipeline.assignment is not None:
            pipeline.before_end = self._observe(pipeline, pipeline.assignment)
        pipeline.report = report
        if report.state is ObservedState.RUNNING or report.state is ObservedState.PAUSED:
            pipeline.crash = None
        if report.state is ObservedState.FAILED:
            pipeline.failed = report.reason or "the camera gave no reason"
        if report.state is ObservedState.ENDED and not pipeline.ended:
            pipeline.row = replace(pipeline.row, ended_run_generation=camera.run_generation)
            return [Persist(pipeline.row)]
        return []

    def only_counts(self, child_id: CameraId, report: CameraReport) -> bool:
        """Whether a camera reports other counters than before, and nothing else: nothing follows from it."""
        present = self._present(child_id)
        if present is None:
            return False
        pipeline, camera = present
        before = pipeline.report
        return before is not None and camera.heard_at is not None and _decisive(report) == _decisive(before)

    def stored(self, rows: Iterable[Row]) -> None:
        """Report ends after they are stored, so that a killed agent never takes one back."""
        for row in rows:
            pipeline = self._pipelines.get(row.pipeline_id)
            if pipeline is not None and row.ended_run_generation == pipeline.row.ended_run_generation:
                pipeline.before_end = None

    def exited(self, child_id: CameraId, code: int | None, now: float) -> None:
        """Start the camera again after the backoff, unless it was asked to stop."""
        present = self._present(child_id)
        if present is None:
            return
        pipeline, camera = present
        pipeline.camera = None
        if camera.asked_at is None and camera.run_generation == pipeline.row.run_generation:
            pipeline.crash = pipeline.last_crash = camera.killed_for or exit_reason("camera", code)
            pipeline.fresh_crash = True
            pipeline.restarts += 1
            if is_fault(code) or (code is not None and code > 0):
                pipeline.crashes = 1 if now - camera.started_at >= HEALTHY else pipeline.crashes + 1
            pipeline.restart_policy.crashed(camera.started_at, now, self._rng())

    # decisions

    def tick(self) -> None:
        """Report crashes as `crashed` only until this tick."""
        for pipeline in self._pipelines.values():
            pipeline.fresh_crash = False

    def kill_stuck(self, now: float) -> list[Action]:
        """Kill the cameras that do not report in time, or do not emit."""
        actions: list[Action] = []
        for pipeline in self._pipelines.values():
            camera = pipeline.camera
            if camera is not None and camera.staying:
                complaint = camera.silence(now) or camera.stall(pipeline.report, now)
                if complaint is not None:
                    actions.append(camera.kill(complaint))
        return actions

    def fail(self, digest: str, reason: str) -> None:
        """Give up the pipelines that should run, and whose model cannot work."""
        for pipeline in self._pipelines.values():
            if pipeline.assignment is not None and self._should_run(pipeline):
                for model in self._possible(pipeline, pipeline.assignment).spec.models:
                    if model.digest == digest:
                        pipeline.failed = f"model {model.id}: {reason}"

    def keep(self, watched: tuple[str, ...], now: float) -> list[Action]:
        """Start, change and stop cameras. `watched`: topics of previews that have a subscriber."""
        actions: list[Action] = []
        for pipeline in list(self._pipelines.values()):
            if pipeline.camera is not None:
                if now - pipeline.camera.started_at >= HEALTHY:
                    pipeline.crashes = 0
                actions += self._keep_camera(pipeline, pipeline.camera, watched, now)
            elif pipeline.gone:
                actions += self._forget(pipeline)
            elif (
                pipeline.assignment is not None
                and self._should_run(pipeline)
                and now >= pipeline.restart_policy.at
            ):
                actions += self._start_camera(pipeline, pipeline.assignment, watched, now)
        return actions

    def _keep_camera(
        self, pipeline: Pipeline, camera: Camera, watched: tuple[str, ...], now: float
    ) -> list[Action]:
        assignment = pipeline.assignment
        assert assignment is not None
        if not camera.staying or not self._should_run(pipeline):
            return camera.stop(now)
        possible = self._possible(pipeline, assignment)
        if not camera.can_become(possible):
            return camera.stop(now)
        following = _following(camera.told.spec.ordered_models, possible.spec.ordered_models)
        if not self._are_ready(following):
            return camera.stop(now)
        actions: list[Action] = []
        if camera.told != possible:
            camera.tell(possible, now)
            served = pipeline.row.served
            pipeline.serve(possible)
            manifests: tuple[Manifest | None, ...] = ()
            if any(following):
                manifests = tuple(
                    None if each is None else self._models.ready(each.digest) for each in following
                )
            if any(following) or pipeline.row.served != served:
                actions.append(Persist(pipeline.row))
            actions.append(ChangeCamera(camera.id, possible, manifests))
        return actions + self._shadow(pipeline, camera) + _show(camera, watched)

    def _shadow(self, pipeline: Pipeline, camera: Camera) -> list[Action]:
        """Tell a camera of a shadow whose engine is ready. Without the engine it waits for the next one."""
        shadow = pipeline.shadow
        if shadow == camera.shadow or (shadow is not None and not self._models.is_ready(shadow.model.digest)):
            return []
        camera.shadow = shadow
        manifest = None if shadow is None else self._models.ready(shadow.model.digest)
        return [ShadowCamera(camera.id, shadow, manifest)]

    def _possible(self, pipeline: Pipeline, assignment: Assignment) -> Assignment:
        """The assignment as far as it can be carried out now: with the former models until its own are ready.

        Until then it is under the former generation, as it is not done. If one of its models can never work,
        nothing more will be done.
        """
        former, models = pipeline.row.serving, assignment.spec.ordered_models
        if len(former) != len(models) or former == models:
            return assignment
        following = _following(former, models)
        if self._are_ready(following) or self._failure(_following(models, former)) is not None:
            return assignment
        generation = pipeline.serving_generation
        if self._failure(following) is not None:
            generation = assignment.generation
        elif generation is None:  # keys of predictions never fall, also not across a start of the agent
            generation = max(assignment.generation - 1, pipeline.row.served)
        return replace(assignment, generation=generation, spec=assignment.spec.with_models(former))

    def _are_ready(self, models: _Following) -> bool:
        """Whether all models that follow can infer now."""
        return all(model is None or self._models.is_ready(model.digest) for model in models)

    def _failure(self, models: _Following) -> str | None:
        """Why one of these models can never work; None if all may."""
        failed = (
            (model.id, failure)
            for model in models
            if model is not None and (failure := self._models.failure(model.digest)) is not None
        )
        return next((f"model {name}: {failure}" for name, failure in failed), None)

    def _forget(self, pipeline: Pipeline) -> list[Action]:
        if not self._adopted:
            return []
        del self._pipelines[pipeline.row.pipeline_id]
        return [Forget(pipeline.row.pipeline_id)]

    def _start_camera(
        self, pipeline: Pipeline, assignment: Assignment, watched: tuple[str, ...], now: float
    ) -> list[Action]:
        possible = self._possible(pipeline, assignment)
        manifests = []
        for model in possible.spec.ordered_models:
            manifest = self._models.ready(model.digest)
            if manifest is None:
                return []
            manifests.append(manifest)
        pipeline.row = replace(pipeline.row, incarnation=pipeline.row.incarnation + 1)
        child = CameraId(assignment.pipeline_id, pipeline.row.incarnation)
        pipeline.camera = Camera(id=child, started_at=now, told=possible)
        pipeline.serve(possible)
        return [
            Persist(pipeline.row),
            StartCamera(child, possible, tuple(manifests)),
            *_show(pipeline.camera, watched),
        ]

    # facts

    def wanted_models(self) -> dict[str, str]:
        """The ids of the models of pipelines that should run, and of those that go on, by digest."""
        wanted: list[ModelRef] = []
        for pipeline in self._pipelines.values():
            if pipeline.assignment is not None and self._should_run(pipeline):
                possible = self._possible(pipeline, pipeline.assignment)
                wanted += (*pipeline.assignment.spec.models, *possible.spec.models)
                if pipeline.shadow is not None:
                    wanted.append(pipeline.shadow.model)
                if pipeline.camera is not None:
                    wanted += pipeline.camera.former
        return {model.digest: model.id for model in wanted}

    def deadlines(self) -> Iterator[float]:
        """When pipelines must be looked at again, if nothing happens until then. Some may be over."""
        for pipeline in self._pipelines.values():
            if pipeline.camera is None:
                yield pipeline.restart_policy.at
                continue
            yield pipeline.camera.next_look(pipeline.report)
            if pipeline.crashes:
                yield pipeline.camera.started_at + HEALTHY

    def cameras(self) -> Iterator[Camera]:
        """The processes."""
        return (pipeline.camera for pipeline in self._pipelines.values() if pipeline.camera is not None)

    def observed(self) -> tuple[Observed, ...]:
        """The observed state, for the broker."""
        return tuple(self._observe(pipeline, assignment) for pipeline, assignment in self._visible())

    def views(self, now: float, only: str | None = None) -> tuple[PipelineView, ...]:
        """The input of the status documents, of all pipelines or of one."""
        return tuple(self._view(pipeline, assignment, now) for pipeline, assignment in self._visible(only))

    def _view(self, pipeline: Pipeline, assignment: Assignment, now: float) -> PipelineView:
        camera = pipeline.camera
        model = self._possible(pipeline, assignment).spec.model if camera is None else camera.models[0]
        desired, trouble = assignment.spec, ""
        if model != desired.model:
            trouble = self._models.failure(desired.model.digest) or self._failure(desired.models) or ""
        crashes = self._models.crashes(model.digest) if model == assignment.spec.model else 0
        return PipelineView(
            assignment=assignment,
            observed=self._observe(pipeline, assignment),
            alive=camera is not None,
            report=pipeline.report,
            report_age=_report_age(camera, now),
            last_crash=pipeline.last_crash or "",
            model=model,
            model_crashes=max(0, crashes - pipeline.model_crashes_before),
            model_trouble=trouble,
            shadow=None if pipeline.shadow is None else self._shadow_stat(pipeline, pipeline.shadow),
        )

    def _shadow_stat(self, pipeline: Pipeline, shadow: Shadow) -> ShadowStat:
        model, camera = shadow.model, pipeline.camera
        failure = self._models.failure(model.digest)
        crashes = max(0, self._models.crashes(model.digest) - pipeline.shadow_crashes_before)
        if failure is not None:
            return ShadowStat(model=model.id, state="failed", reason=cut_reason(failure), crashes=crashes)
        report = pipeline.report
        crash = self._models.last_crash(model.digest) if crashes else ""
        if camera is None or camera.shadow != shadow or report is None or report.shadow is None:
            why = self._models.obstacle((model,)) or crash
            return ShadowStat(model=model.id, state="waiting", reason=cut_reason(why), crashes=crashes)
        return ShadowStat(
            model=model.id,
            state="running",
            reason=cut_reason(crash),
            crashes=crashes,
            counts=report.shadow,
        )

    def check(self, watched: tuple[str, ...]) -> None:
        """Assert the invariants."""
        for pipeline_id, pipeline in self._pipelines.items():
            row, camera = pipeline.row, pipeline.camera
            assert row.pipeline_id == pipeline_id
            assert row.run_generation <= row.generation
            assert pipeline.before_end is None or pipeline.ended
            if camera is None:
                continue
            assert camera.id == CameraId(pipeline_id, row.incarnation), "a camera that is not the newest"
            assert camera.run_generation <= row.run_generation
            if camera.staying:
                assert self._should_run(pipeline), "a camera that should not run"
                assert camera.run_generation == row.run_generation
                assert pipeline.assignment is not None
                assert camera.told == self._possible(pipeline, pipeline.assignment)
                assert camera.told.spec.ordered_models == row.serving
                assert camera.shows == is_watched(pipeline_id, watched)

    def _present(self, child_id: CameraId) -> tuple[Pipeline, Camera] | None:
        """Return the pipeline and its camera, unless this camera was replaced."""
        pipeline = self._pipelines.get(child_id.pipeline_id)
        if pipeline is None or pipeline.camera is None or pipeline.camera.id != child_id:
            return None
        return pipeline, pipeline.camera

    def _visible(self, only: str | None = None) -> Iterator[tuple[Pipeline, Assignment]]:
        """The pipelines that run or are desired, in the order of their ids."""
        chosen = self._pipelines.keys() if only is None else self._pipelines.keys() & {only}
        for pipeline_id in sorted(chosen):
            pipeline = self._pipelines[pipeline_id]
            if pipeline.assignment is not None and (pipeline.camera is not None or pipeline.is_desired):
                yield pipeline, pipeline.assignment

    def _should_run(self, pipeline: Pipeline) -> bool:
        """Whether a camera should exist, now or after the backoff."""
        return (
            pipeline.is_desired
            and not pipeline.ended
            and pipeline.failed is None
            and not self._is_fenced(pipeline)
        )

    def _is_fenced(self, pipeline: Pipeline) -> bool:
        assignment = pipeline.assignment
        return self.fenced and assignment is not None and assignment.on_disconnect == "stop"

    def _observe(self, pipeline: Pipeline, assignment: Assignment) -> Observed:
        if pipeline.before_end is not None and pipeline.is_desired:
            return pipeline.before_end
        state, reason = self._state(pipeline, assignment)
        return Observed(
            pipeline_id=assignment.pipeline_id,
            generation=pipeline.generation,
            incarnation=pipeline.row.incarnation,
            state=state,
            reason=cut_reason(reason or ""),
            restarts=pipeline.restarts,
            ready=_is_ready(pipeline, state) if assignment.standby else None,
            crashes=pipeline.crashes + self._models.faults(self._possible(pipeline, assignment).spec.models),
        )

    def _state(self, pipeline: Pipeline, assignment: Assignment) -> tuple[ObservedState, str | None]:
        if not pipeline.is_desired:
            return ObservedState.STOPPING, None
        if pipeline.failed is not None:
            return ObservedState.FAILED, pipeline.failed
        if pipeline.ended:
            return ObservedState.ENDED, pipeline.report.reason if pipeline.report is not None else None
        if pipeline.camera is not None:
            return self._camera_state(pipeline, pipeline.camera, assignment)
        if self._is_fenced(pipeline):
            return ObservedState.STARTING, "stopped until the broker is reachable again"
        if pipeline.crash is not None:
            return ObservedState.CRASHED if pipeline.fresh_crash else ObservedState.BACKOFF, pipeline.crash
        return ObservedState.STARTING, self._models.obstacle(assignment.spec.models)

    def _camera_state(
        self, pipeline: Pipeline, camera: Camera, assignment: Assignment
    ) -> tuple[ObservedState, str | None]:
        report = pipeline.report
        if camera.killed_for is not None and camera.asked_at is None:
            return ObservedState.CRASHED, camera.killed_for
        if not camera.staying:
            return ObservedState.STOPPING, None
        if camera.heard_at is None or report is None:
            return ObservedState.STARTING, pipeline.crash
        reason = report.reason
        if not reason and report.waiting_for_engine:
            reason = self._models.crash(camera.told.spec.models) or ""
        return report.state, reason or self._why_former(camera, assignment)

    def _why_former(self, camera: Camera, assignment: Assignment) -> str:
        """Why the former models go on; "" if they do not."""
        models, former = assignment.spec.ordered_models, camera.models
        following = [(model, before) for model, before in zip(models, former, strict=True) if model != before]
        if not following:
            return ""
        failure = self._failure([model for model, _ in following])
        if failure is not None:
            return f"model {following[0][1].id} goes on: {failure}"
        waits = (each for each in following if not self._models.is_ready(each[0].digest))
        model, before = next(waits, following[0])
        why = self._models.obstacle((model,))
        return f"model {before.id} goes on until model {model.id} is ready{f': {why}' if why else ''}"


def _following(former: Sequence[ModelRef], models: Sequence[ModelRef]) -> _Following:
    """The models that take over from the former ones, in their order; None where the former one stays."""
    return tuple(None if model == before else model for before, model in zip(former, models, strict=True))


def _show(camera: Camera, watched: tuple[str, ...]) -> list[Action]:
    wanted = is_watched(camera.id.pipeline_id, watched)
    if camera.shows == wanted:
        return []
    camera.shows = wanted
    return [ShowPictures(camera.id, wanted)]


def _is_ready(pipeline: Pipeline, state: ObservedState) -> bool:
    """Whether a standby could emit at once."""
    report = pipeline.report
    if report is None or state is not ObservedState.PAUSED:
        return False
    return report.ready and not report.waiting_for_engine


def _decisive(report: CameraReport) -> tuple[object, ...]:
    """All of a report that decisions and the observed state depend on."""
    return report.state, report.reason, report.generation, report.ready, report.waiting_for_engine


def _report_age(camera: Camera | None, now: float) -> float | None:
    return None if camera is None or camera.heard_at is None else now - camera.heard_at
