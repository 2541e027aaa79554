"""What to start, change, stop and kill, so that what runs becomes what is wished: pure decisions.

    starting --report--> running, paused, reconnecting --exit--> crashed --> backoff --> starting
    running --report ended--> ended          any --wish gone, fence closed--> stopping --exit--> (absent)
    starting --model or camera cannot ever work--> failed, until the spec changes

Wishes, reports and exits come in, actions go out, to be performed in their order. `now` is CLOCK_BOOTTIME in
seconds. No process, file or socket is touched here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from typing_extensions import assert_never

from streamfleet_broker.protocol.reference import redacted
from streamfleet_broker.protocol.status import EngineStat
from streamfleet_broker.protocol.values import Manifest, Observed, ObservedState, PipelineSpec, Wish
from streamfleet_worker.audience import is_watched
from streamfleet_worker.control import CameraReport, EngineReport, PublisherReport

START_PATIENCE = 30.0  # seconds to a child's first report, and for an engine to load
SILENCE = 5.0  # seconds between two reports: the child is stuck
STALL = 10.0  # seconds in which a running camera emits nothing
LONGEST_RUN = 10.0  # seconds of one inference
STOP_PATIENCE = 1.0  # seconds from asking to killing
KEEP_WARM = 30.0  # seconds that an engine stays after its last camera
WAKE_GAP = 2.0  # seconds between two turns: we slept, the children may not have
BACKOFF_FIRST = 0.5  # seconds
BACKOFF_FACTOR = 1.5
BACKOFF_LAST = 300.0  # seconds
HEALTHY = 60.0  # seconds after which a crash counts as the first one
MAX_REASON = 300  # bytes: twice as many pipelines as a device may have fit into one message


# children ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CameraId:
    """One process of one pipeline."""

    pipeline_id: str
    inc: int


@dataclass(frozen=True, slots=True)
class EngineId:
    """One process of one model."""

    digest: str  # of the manifest
    run: int


@dataclass(frozen=True, slots=True)
class PublisherId:
    """One process of the publisher."""

    run: int


ChildId = CameraId | EngineId | PublisherId
Report = CameraReport | EngineReport | PublisherReport


# events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """What is remembered of a pipeline, also when the power is cut."""

    pipeline_id: str
    gen: int  # the highest adopted: a wish of a lower one is refused
    start_gen: int
    inc: int  # +1 before each start
    ended_start_gen: int | None = None  # this playing came to its end and is never started again


@dataclass(frozen=True, slots=True)
class Adopted:
    """These are all the wishes."""

    wishes: tuple[Wish, ...]


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another device may run our movable pipelines."""


@dataclass(frozen=True, slots=True)
class Unfenced:
    """The broker counts on us to run all that it wished."""


@dataclass(frozen=True, slots=True)
class ModelFetched:
    """A model lies on the disk."""

    digest: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ModelRefused:
    """A model could not be fetched. Unless that is permanent, the fetching goes on by itself."""

    digest: str
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Reported:
    """A child said its state."""

    child: ChildId
    report: Report


@dataclass(frozen=True, slots=True)
class Exited:
    """A child has ended; a negative code is the signal that ended it, None: it could not be started."""

    child: ChildId
    code: int | None


Event = Adopted | Fenced | Unfenced | ModelFetched | ModelRefused | Reported | Exited


# actions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Write this before the next action."""

    row: Row


@dataclass(frozen=True, slots=True)
class Forget:
    """The pipeline is no longer wished for: remove what is remembered of it."""

    pipeline_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """A wish had a lower gen than the one known, and has no effect: somebody should know."""

    pipeline_id: str
    gen: int
    known_gen: int


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Bring the model here, however long it takes."""

    digest: str


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """Nobody wants the model any more."""

    digest: str


@dataclass(frozen=True, slots=True)
class StartPublisher:
    """Start the publisher."""

    child: PublisherId


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Start an engine."""

    child: EngineId
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class StartCamera:
    """Start a camera."""

    child: CameraId
    wish: Wish
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ChangeCamera:
    """Tell a living camera what is wished for now: the same sources and model under a later generation."""

    child: CameraId
    wish: Wish


@dataclass(frozen=True, slots=True)
class ShowPictures:
    """Tell a living camera whether somebody looks at its pictures. Without a word it makes none."""

    child: CameraId
    wanted: bool


@dataclass(frozen=True, slots=True)
class StopChild:
    """Ask a child to end."""

    child: ChildId


@dataclass(frozen=True, slots=True)
class KillChild:
    """End a child now."""

    child: ChildId
    reason: str


Action = (
    Persist
    | Forget
    | Refuse
    | FetchModel
    | CancelFetch
    | StartPublisher
    | StartEngine
    | StartCamera
    | ChangeCamera
    | ShowPictures
    | StopChild
    | KillChild
)


# what is known ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Child:
    """A process that was started and has not exited."""

    id: ChildId
    started_at: float
    heard_at: float | None = None  # the last report
    asked_at: float | None = None  # to stop
    killed: bool = False
    complaint: str = ""  # why it was killed

    @property
    def staying(self) -> bool:
        return self.asked_at is None and not self.killed

    def silence(self, now: float, limit: float) -> str:
        """What to complain about, or nothing."""
        if self.heard_at is None:
            if now - self.started_at >= START_PATIENCE:
                return f"no sign of life for {START_PATIENCE:.0f} s after its start"
        elif now - self.heard_at >= limit:
            return f"no report for {limit:.0f} s"
        return ""


@dataclass(slots=True)
class _Backoff:
    """When something that crashed is tried again."""

    failures: int = 0  # in a row
    retry_at: float = float("-inf")

    def crashed(self, child: _Child, now: float, jitter: float) -> None:
        if now - child.started_at >= HEALTHY:
            self.failures = 0
        longest = min(BACKOFF_LAST, BACKOFF_FIRST * BACKOFF_FACTOR ** min(self.failures, 20))
        self.retry_at = now + longest * jitter
        self.failures += 1


@dataclass(slots=True)
class _Camera(_Child):
    told: Wish = field(kw_only=True)  # the last one that it knows; all play alike
    moved_at: float | None = None  # when `emitted` moved last while it should; None while nothing need move
    shows: bool = False  # it was told that somebody looks at its pictures

    @property
    def start_gen(self) -> int:
        """Which playing this is."""
        return self.told.start_gen

    @property
    def digest(self) -> str:
        """Of its model."""
        return self.told.spec.model.digest

    def can_become(self, wish: Wish) -> bool:
        """Is what is wished for the playing of this process, which needs to be told at most?"""
        told = self.told
        return (
            wish.start_gen == told.start_gen
            and wish.on_disconnect == told.on_disconnect  # whether the fence stops it, it learns at its start
            and wish.spec.plays_like(told.spec)
        )


@dataclass(slots=True)
class _Pipeline:
    row: Row
    wish: Wish | None = None  # the last one; None before the first since the start
    gone: bool = True  # not in the last wishes
    camera: _Camera | None = None
    report: CameraReport | None = None  # of the present camera, or of the last one of this playing
    backoff: _Backoff = field(default_factory=_Backoff)
    crash: str = ""  # why the last camera ended, until one works
    last_crash: str = ""  # the same, for as long as `restarts` counts it
    fresh_crash: bool = False  # until the next tick, so that it is seen
    restarts: int = 0  # of this playing, since the agent's start
    failed: str = ""  # why this playing can never work

    @property
    def ended(self) -> bool:
        """This playing is over."""
        ended = self.row.ended_start_gen
        return ended is not None and self.row.start_gen <= ended


@dataclass(slots=True)
class _Model:
    digest: str
    manifest: Manifest | None = None  # once fetched
    fetching: bool = False
    trouble: str = ""  # with fetching
    failed: str = ""  # why it can never work
    engine: _Child | None = None
    report: EngineReport | None = None  # of the present engine
    runs: int = 0
    idle_since: float | None = None
    backoff: _Backoff = field(default_factory=_Backoff)
    crash: str = ""  # why the last engine ended, until one is ready
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class PipelineView:
    """One pipeline, for the status document."""

    wish: Wish
    observed: Observed
    alive: bool  # its camera process exists
    report: CameraReport | None  # the last one
    report_age: float  # seconds
    last_crash: str  # why it was restarted last


class Reconcile:
    """Every decision about what runs on a device.

    `rows` is what was remembered of earlier runs; `rng` gives numbers in [0, 1) for the jitter.
    """

    def __init__(self, rows: Iterable[Row], rng: Callable[[], float]) -> None:
        self._rng = rng
        self._pipelines = {row.pipeline_id: _Pipeline(row) for row in rows}
        self._models: dict[str, _Model] = {}
        self._publisher: _Child | None = None
        self._publisher_runs = 0
        self._publisher_backoff = _Backoff()
        self._watched: tuple[str, ...] = ()  # of the present publisher's last report
        self._adopted = False  # before the first wishes, nothing that is remembered is forgotten
        self._fenced = True
        self._turned_at: float | None = None
        self._actions: list[Action] = []

    # inputs

    def receive(self, event: Event, now: float) -> list[Action]:
        """Something happened."""
        self._turn(now)
        match event:
            case Adopted():
                self._adopt(event.wishes)
            case Fenced():
                self._fenced = True
            case Unfenced():
                self._fenced = False
            case ModelFetched():
                self._fetched(event)
            case ModelRefused():
                self._refused(event)
            case Reported():
                self._reported(event.child, event.report, now)
            case Exited():
                self._exited(event.child, event.code, now)
            case _:
                assert_never(event)
        return self._converge(now)

    def tick(self, now: float) -> list[Action]:
        """Time passed. Called ten times a second."""
        self._turn(now)
        for pipeline in self._pipelines.values():
            pipeline.fresh_crash = False
        for child, complaint in self._stuck(now):
            self._kill(child, complaint)
        return self._converge(now)

    # facts

    def observed(self) -> tuple[Observed, ...]:
        """What the broker is told."""
        return tuple(
            self._observe(pipeline)
            for _, pipeline in sorted(self._pipelines.items())
            if pipeline.wish is not None and (pipeline.camera is not None or self._is_wished(pipeline))
        )

    def pipelines(self, now: float, only: str | None = None) -> tuple[PipelineView, ...]:
        """What the status documents are made of: of all pipelines, or of one."""
        chosen = self._pipelines.keys() if only is None else self._pipelines.keys() & {only}
        return tuple(
            PipelineView(
                wish=pipeline.wish,
                observed=self._observe(pipeline),
                alive=pipeline.camera is not None,
                report=pipeline.report,
                report_age=_age(pipeline.camera, now),
                last_crash=_reason(pipeline.last_crash),
            )
            for pipeline in (self._pipelines[pipeline_id] for pipeline_id in sorted(chosen))
            if pipeline.wish is not None and (pipeline.camera is not None or self._is_wished(pipeline))
        )

    def engines(self) -> tuple[EngineStat, ...]:
        """The models of this device, by digest."""
        return tuple(
            EngineStat(
                digest=digest,
                state=_engine_state(model),
                reason=_reason(model.failed or model.trouble or model.crash),
                inferences=model.report.inferences if model.report else 0,
                restarts=model.restarts,
            )
            for digest, model in sorted(self._models.items())
        )

    def children(self) -> set[ChildId]:
        """The processes that should exist, or are on their way out."""
        return {child.id for child in self._children()}

    def is_leaving(self) -> bool:
        """Is a movable camera on its way out? Its pipeline may be another device's by now.

        While it lives, the fence must not be opened for it, whatever is wished for in its place.
        """
        return any(
            pipeline.camera is not None
            and not pipeline.camera.staying
            and pipeline.camera.told.on_disconnect == "stop"
            for pipeline in self._pipelines.values()
        )

    def check(self) -> None:
        """Assert what is always true between two inputs."""
        for pipeline_id, pipeline in self._pipelines.items():
            row, camera = pipeline.row, pipeline.camera
            assert row.pipeline_id == pipeline_id
            assert row.start_gen <= row.gen
            if camera is None:
                continue
            assert camera.id == CameraId(pipeline_id, row.inc), "a camera that is not the newest"
            assert camera.start_gen <= row.start_gen
            if camera.staying:
                assert self._should_run(pipeline), "a camera that nobody wished for"
                assert camera.start_gen == row.start_gen
                assert pipeline.wish is not None
                assert camera.told == pipeline.wish
                assert camera.shows == is_watched(pipeline_id, self._watched)
        for model in self._models.values():
            assert not (model.failed and model.engine and model.engine.staying), "an engine that cannot work"
            assert model.engine is None or model.manifest is not None
            assert not (model.fetching and model.manifest)

    # events

    def _adopt(self, wishes: tuple[Wish, ...]) -> None:
        self._adopted = True
        for pipeline in self._pipelines.values():
            pipeline.gone = True
        for wish in wishes:
            pipeline = self._pipelines.setdefault(
                wish.pipeline_id, _Pipeline(Row(wish.pipeline_id, wish.gen, wish.start_gen, 0))
            )
            pipeline.gone = False
            self._adopt_one(pipeline, wish)

    def _adopt_one(self, pipeline: _Pipeline, wish: Wish) -> None:
        row = pipeline.row
        if wish.gen < row.gen:
            self._actions.append(Refuse(wish.pipeline_id, wish.gen, row.gen))
            return
        if wish.start_gen != row.start_gen or pipeline.wish is None:
            self._begin_anew(pipeline, wish)
        if (wish.gen, wish.start_gen) != (row.gen, row.start_gen) or pipeline.wish is None:
            pipeline.row = replace(row, gen=wish.gen, start_gen=wish.start_gen)
            self._actions.append(Persist(pipeline.row))
        pipeline.wish = wish

    def _begin_anew(self, pipeline: _Pipeline, wish: Wish) -> None:
        """A playing of which nothing is known yet."""
        pipeline.report = None
        pipeline.backoff = _Backoff()
        pipeline.crash = pipeline.last_crash = pipeline.failed = ""
        pipeline.restarts = 0
        # What could not work may work now: somebody changed the spec in the hope of it.
        model = self._models.get(wish.spec.model.digest)
        if model is not None and model.failed:
            model.failed = model.crash = ""
            model.backoff = _Backoff()

    def _fetched(self, event: ModelFetched) -> None:
        model = self._models.get(event.digest)
        if model is not None and model.fetching:
            model.fetching = False
            model.trouble = ""
            model.manifest = event.manifest

    def _refused(self, event: ModelRefused) -> None:
        model = self._models.get(event.digest)
        if model is None or not model.fetching:
            return
        if event.permanent:
            model.fetching = False
            model.failed = event.reason
        else:
            model.trouble = event.reason

    def _reported(self, child: ChildId, report: Report, now: float) -> None:
        """Reports of a process that is not the present one are of no interest."""
        match child, report:
            case CameraId(), CameraReport():
                pipeline = self._pipelines.get(child.pipeline_id)
                if pipeline is not None and pipeline.camera is not None and pipeline.camera.id == child:
                    self._camera_reported(pipeline, pipeline.camera, report, now)
            case EngineId(), EngineReport():
                model = self._models.get(child.digest)
                if model is not None and model.engine is not None and model.engine.id == child:
                    model.engine.heard_at = now
                    model.report = report
                    if report.state == "ready":
                        model.crash = ""
                    elif report.state == "failed" and model.engine.staying:
                        model.failed = report.reason or "the engine cannot load it"
            case PublisherId(), PublisherReport():
                if self._publisher is not None and self._publisher.id == child:
                    self._publisher.heard_at = now
                    self._watched = report.watched
            case _:
                raise TypeError(f"{child} cannot have said {type(report).__name__}")

    def _camera_reported(
        self, pipeline: _Pipeline, camera: _Camera, report: CameraReport, now: float
    ) -> None:
        before = pipeline.report if camera.heard_at is not None else None
        camera.heard_at = now
        must_move = report.state is ObservedState.RUNNING and not report.waiting_for_engine
        if not must_move:
            camera.moved_at = None
        elif camera.moved_at is None or before is None or report.emitted != before.emitted:
            camera.moved_at = now
        if camera.start_gen != pipeline.row.start_gen:
            return  # the last words of a playing that was given up
        pipeline.report = report
        if report.state is ObservedState.RUNNING or report.state is ObservedState.PAUSED:
            pipeline.crash = ""
        if report.state is ObservedState.ENDED and not pipeline.ended:
            pipeline.row = replace(pipeline.row, ended_start_gen=camera.start_gen)
            self._actions.append(Persist(pipeline.row))
        if report.state is ObservedState.FAILED:
            pipeline.failed = report.reason or "the camera gave no reason"

    def _exited(self, child: ChildId, code: int | None, now: float) -> None:
        match child:
            case CameraId():
                pipeline = self._pipelines.get(child.pipeline_id)
                if pipeline is not None and pipeline.camera is not None and pipeline.camera.id == child:
                    self._camera_exited(pipeline, pipeline.camera, code, now)
            case EngineId():
                model = self._models.get(child.digest)
                if model is not None and model.engine is not None and model.engine.id == child:
                    self._engine_exited(model, model.engine, code, now)
            case PublisherId():
                if self._publisher is not None and self._publisher.id == child:
                    self._publisher_backoff.crashed(self._publisher, now, self._rng())
                    self._publisher = None
                    self._watched = ()
            case _:
                assert_never(child)

    def _camera_exited(self, pipeline: _Pipeline, camera: _Camera, code: int | None, now: float) -> None:
        pipeline.camera = None
        if camera.asked_at is None and camera.start_gen == pipeline.row.start_gen:
            pipeline.crash = pipeline.last_crash = camera.complaint or _exit_reason("camera", code)
            pipeline.fresh_crash = True
            pipeline.restarts += 1
            pipeline.backoff.crashed(camera, now, self._rng())

    def _engine_exited(self, model: _Model, engine: _Child, code: int | None, now: float) -> None:
        model.engine = None
        model.report = None
        model.idle_since = None
        if engine.asked_at is None:
            model.crash = engine.complaint or _exit_reason("engine", code)
            model.restarts += 1
            model.backoff.crashed(engine, now, self._rng())

    # decisions

    def _turn(self, now: float) -> None:
        """Whoever slept cannot blame others for having been silent meanwhile."""
        gap = 0.0 if self._turned_at is None else now - self._turned_at
        self._turned_at = now
        if gap <= WAKE_GAP:
            return
        for child in self._children():
            child.started_at += gap
            if child.heard_at is not None:
                child.heard_at += gap
            if isinstance(child, _Camera) and child.moved_at is not None:
                child.moved_at += gap

    def _children(self) -> list[_Child]:
        children: list[_Child] = [model.engine for model in self._models.values() if model.engine is not None]
        children += [pipeline.camera for pipeline in self._pipelines.values() if pipeline.camera is not None]
        if self._publisher is not None:
            children.append(self._publisher)
        return children

    def _stuck(self, now: float) -> list[tuple[_Child, str]]:
        """The children that do not do what they are for, and why we think so."""
        stuck: list[tuple[_Child, str]] = []
        for pipeline in self._pipelines.values():
            camera = pipeline.camera
            if camera is not None and camera.staying:
                complaint = camera.silence(now, SILENCE) or _stall(camera, pipeline.report, now)
                stuck.append((camera, complaint))
        for model in self._models.values():
            engine, report = model.engine, model.report
            if engine is not None and engine.staying:
                loading = report is not None and report.state == "loading"
                complaint = engine.silence(now, START_PATIENCE if loading else SILENCE)
                if report is not None and report.oldest_run > LONGEST_RUN:
                    complaint = f"an inference has taken {report.oldest_run:.0f} s"
                stuck.append((engine, complaint))
        if self._publisher is not None and self._publisher.staying:
            stuck.append((self._publisher, self._publisher.silence(now, SILENCE)))
        return [(child, complaint) for child, complaint in stuck if complaint]

    def _converge(self, now: float) -> list[Action]:
        """All that follows from what is known."""
        self._keep_publisher(now)
        self._keep_models(now)
        for pipeline in list(self._pipelines.values()):
            self._keep_pipeline(pipeline, now)
        actions, self._actions = self._actions, []
        return actions

    def _keep_publisher(self, now: float) -> None:
        if self._publisher is None and now >= self._publisher_backoff.retry_at:
            self._publisher_runs += 1
            publisher = PublisherId(self._publisher_runs)
            self._publisher = _Child(publisher, now)
            self._actions.append(StartPublisher(publisher))

    def _keep_models(self, now: float) -> None:
        wanted = {
            pipeline.wish.spec.model.digest
            for pipeline in self._pipelines.values()
            if pipeline.wish is not None and self._should_run(pipeline)
        }
        for digest in sorted(wanted - self._models.keys()):
            self._models[digest] = _Model(digest)
        used = wanted | {
            pipeline.camera.digest for pipeline in self._pipelines.values() if pipeline.camera is not None
        }
        for digest, model in list(self._models.items()):
            if model.failed:
                self._fail_pipelines(model)
            self._keep_model(model, digest in wanted, digest in used, now)

    def _fail_pipelines(self, model: _Model) -> None:
        for pipeline in self._pipelines.values():
            if (
                pipeline.wish is not None
                and pipeline.wish.spec.model.digest == model.digest
                and self._should_run(pipeline)
            ):
                pipeline.failed = f"model {pipeline.wish.spec.model.id}: {model.failed}"

    def _keep_model(self, model: _Model, wanted: bool, used: bool, now: float) -> None:
        if used:
            model.idle_since = None
        elif model.idle_since is None:
            model.idle_since = now
        if model.failed:
            self._stop(model.engine, now)
        elif model.manifest is None:
            self._keep_fetch(model, wanted)
        elif model.engine is None:
            if wanted and now >= model.backoff.retry_at:
                self._start_engine(model, model.manifest, now)
        elif model.engine.asked_at is not None or (
            model.idle_since is not None and now - model.idle_since >= KEEP_WARM
        ):
            self._stop(model.engine, now)
        if not used and model.engine is None:
            del self._models[model.digest]

    def _keep_fetch(self, model: _Model, wanted: bool) -> None:
        if wanted and not model.fetching:
            model.fetching = True
            self._actions.append(FetchModel(model.digest))
        elif not wanted and model.fetching:
            model.fetching = False
            self._actions.append(CancelFetch(model.digest))

    def _start_engine(self, model: _Model, manifest: Manifest, now: float) -> None:
        model.runs += 1
        engine = EngineId(model.digest, model.runs)
        model.engine = _Child(engine, now)
        self._actions.append(StartEngine(engine, manifest))

    def _keep_pipeline(self, pipeline: _Pipeline, now: float) -> None:
        if pipeline.camera is not None:
            self._keep_camera(pipeline, pipeline.camera, now)
        elif pipeline.gone:
            if self._adopted:
                del self._pipelines[pipeline.row.pipeline_id]
                self._actions.append(Forget(pipeline.row.pipeline_id))
        elif self._should_run(pipeline) and now >= pipeline.backoff.retry_at:
            assert pipeline.wish is not None
            self._start_camera(pipeline, pipeline.wish, now)

    def _keep_camera(self, pipeline: _Pipeline, camera: _Camera, now: float) -> None:
        wish = pipeline.wish
        assert wish is not None
        if not camera.staying or not camera.can_become(wish) or not self._should_run(pipeline):
            self._stop(camera, now)
            return
        assert isinstance(camera.id, CameraId)
        if camera.told != wish:
            camera.told = wish
            camera.moved_at = None if camera.moved_at is None else now
            self._actions.append(ChangeCamera(camera.id, wish))
        self._show(camera, camera.id)

    def _start_camera(self, pipeline: _Pipeline, wish: Wish, now: float) -> None:
        model = self._models[wish.spec.model.digest]
        if model.manifest is None or model.engine is None or not model.engine.staying:
            return
        pipeline.row = replace(pipeline.row, inc=pipeline.row.inc + 1)
        child = CameraId(wish.pipeline_id, pipeline.row.inc)
        pipeline.camera = _Camera(child, now, told=wish)
        self._actions += [Persist(pipeline.row), StartCamera(child, wish, model.manifest)]
        self._show(pipeline.camera, child)

    def _show(self, camera: _Camera, child: CameraId) -> None:
        watched = is_watched(child.pipeline_id, self._watched)
        if camera.shows != watched:
            camera.shows = watched
            self._actions.append(ShowPictures(child, watched))

    def _stop(self, child: _Child | None, now: float) -> None:
        """Ask, and after `STOP_PATIENCE` do not ask any more."""
        if child is None or child.killed:
            return
        if child.asked_at is None:
            child.asked_at = now
            self._actions.append(StopChild(child.id))
        elif now - child.asked_at >= STOP_PATIENCE:
            self._kill(child, "it did not stop when it was asked")

    def _kill(self, child: _Child, complaint: str) -> None:
        child.killed = True
        child.complaint = complaint
        self._actions.append(KillChild(child.id, complaint))

    # how things stand

    def _is_wished(self, pipeline: _Pipeline) -> bool:
        return pipeline.wish is not None and not pipeline.gone and pipeline.wish.want != "stop"

    def _should_run(self, pipeline: _Pipeline) -> bool:
        """Whether a camera should exist, now or after the back-off."""
        return (
            self._is_wished(pipeline)
            and not pipeline.ended
            and not pipeline.failed
            and not self._is_fenced(pipeline)
        )

    def _is_fenced(self, pipeline: _Pipeline) -> bool:
        return self._fenced and pipeline.wish is not None and pipeline.wish.on_disconnect == "stop"

    def _observe(self, pipeline: _Pipeline) -> Observed:
        wish, camera = pipeline.wish, pipeline.camera
        assert wish is not None
        state, reason = self._state(pipeline, wish)
        gen = wish.gen
        if camera is not None and self._is_wished(pipeline):
            gen = camera.told.gen
            # A change is done when the camera says so, not when it was told.
            if camera.heard_at is not None and pipeline.report is not None:
                gen = min(gen, pipeline.report.gen)
        if pipeline.ended or pipeline.failed:
            gen = wish.gen
        return Observed(
            pipeline_id=wish.pipeline_id,
            gen=gen,
            inc=pipeline.row.inc,
            state=state,
            reason=_reason(reason),
            restarts=pipeline.restarts,
        )

    def _state(self, pipeline: _Pipeline, wish: Wish) -> tuple[ObservedState, str]:
        camera, report = pipeline.camera, pipeline.report
        if not self._is_wished(pipeline):
            return ObservedState.STOPPING, ""
        if pipeline.failed:
            return ObservedState.FAILED, pipeline.failed
        if pipeline.ended:
            return ObservedState.ENDED, ""
        if camera is not None:
            if camera.killed and camera.asked_at is None:
                return ObservedState.CRASHED, camera.complaint
            if not camera.staying:
                return ObservedState.STOPPING, ""
            if camera.heard_at is None or report is None:
                return ObservedState.STARTING, pipeline.crash
            return report.state, report.reason or self._engine_trouble(wish, report)
        if self._is_fenced(pipeline):
            return ObservedState.STARTING, "stopped until the broker is heard again"
        if pipeline.crash:
            return ObservedState.CRASHED if pipeline.fresh_crash else ObservedState.BACKOFF, pipeline.crash
        return ObservedState.STARTING, self._model_trouble(wish)

    def _model_trouble(self, wish: Wish) -> str:
        """Why a camera that may start has not started."""
        model = self._models.get(wish.spec.model.digest)
        if model is None:
            return ""
        if model.manifest is None:
            return f"fetching model {wish.spec.model.id}: {model.trouble}".removesuffix(": ")
        return model.crash

    def _engine_trouble(self, wish: Wish, report: CameraReport) -> str:
        model = self._models.get(wish.spec.model.digest)
        return model.crash if model is not None and report.waiting_for_engine else ""


def _stall(camera: _Camera, report: CameraReport | None, now: float) -> str:
    """A camera that says it runs must emit, as often as it may."""
    limit = max(STALL, 3 * _interval(camera.told.spec, report))
    if camera.moved_at is not None and now - camera.moved_at >= limit:
        return f"it says that it runs, and emitted nothing for {limit:.0f} s"
    return ""


def _interval(spec: PipelineSpec, report: CameraReport | None) -> float:
    """Seconds between two frames of the fastest source that runs, if all are as slow as they may be."""
    running = (
        {source.source_id for source in report.sources if source.state == "RUNNING"} if report else set()
    )
    limits = [source.max_fps or spec.max_fps for source in spec.sources]
    of_running = [limits[number] for number in sorted(running) if number < len(limits)]
    return min(0.0 if limit is None else 1 / limit for limit in of_running or limits)


def how_it_ended(code: int) -> str:
    """What an exit code says of a process."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _age(camera: _Camera | None, now: float) -> float:
    if camera is None or camera.heard_at is None:
        return float("inf")
    return now - camera.heard_at


def _reason(text: str) -> str:
    """Fit to be shown, and short enough to be sent."""
    return redacted(text).encode()[:MAX_REASON].decode(errors="ignore")


def _engine_state(model: _Model) -> str:
    if model.failed:
        return "failed"
    if model.manifest is None:
        return "fetching"
    if model.engine is None:
        return "backoff"
    return model.report.state if model.report is not None else "starting"


def _exit_reason(what: str, code: int | None) -> str:
    return f"the {what} process {'could not be started' if code is None else how_it_ended(code)}"
