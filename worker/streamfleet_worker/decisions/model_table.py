"""The models of a device: fetching, engines, and failures. Pure decisions.

(absent) --wanted--> fetching --fetched--> starting --report--> ready --exit--> backoff --> starting
fetching --refused--> failed    starting --cannot load--> failed    ready --damaged file--> fetching
ready --no camera for `KEEP_WARM`--> (absent)      ready --outdated--> starting, without a pause
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from streamfleet_core.models.onnx_graph import TOO_LONG
from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.status import EngineStat, MissingAccelerator
from streamfleet_core.protocol.values import Manifest, ModelRef, Variant
from streamfleet_worker.decisions.children import REPORT_TIMEOUT, Child, exit_reason, is_fault
from streamfleet_worker.decisions.reconcile_actions import Action, CancelFetch, FetchModel, StartEngine
from streamfleet_worker.decisions.reconcile_events import EngineId, ModelFetched, ModelRefused
from streamfleet_worker.decisions.restart_policy import HEALTHY, RestartPolicy
from streamfleet_worker.ipc.child_messages import EngineReport

LOAD_TIMEOUT = 90.0  # seconds for an engine to load, which the kernel limits by processor time
LONGEST_RUN = 10.0  # seconds of one inference
MOST_FAULTS = 3  # times in a row that a model may end its engine
KEEP_WARM = 30.0  # seconds that an engine stays after its last camera


@dataclass(slots=True, kw_only=True)
class Model:
    """State of one model. Texts are None if they do not apply."""

    digest: str
    model_id: str  # by which a pipeline knows it
    manifest: Manifest | None = None  # once fetched
    variant: Variant | None = None  # for this board, until it is given up
    variant_trouble: str = ""  # why it was given up
    fetching: bool = False
    trouble: str | None = None  # why fetching takes so long
    damaged: bool = False  # its file on the disk, as the present engine found it
    failed: str | None = None  # why it can never work
    engine: Child[EngineId] | None = None
    report: EngineReport | None = None  # of the present engine
    missing_accelerator: MissingAccelerator | None = None  # as the last engine that had tried them found it
    runs: int = 0
    idle_since: float | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    crash: str | None = None  # why the last engine ended, until one is ready
    last_crash: str = ""  # the same, and it stays
    restarts: int = 0
    faults: int = 0  # engines in a row that the model itself ended

    @property
    def state(self) -> str:
        """The state in the device's status."""
        if self.failed is not None:
            return "failed"
        if self.manifest is None:
            return "fetching"
        if self.engine is None:
            return "backoff"
        return self.report.state if self.report is not None else "starting"

    def deadlines(self) -> Iterator[float]:
        """When it must be looked at again, if nothing happens until then. Some may be over."""
        if self.engine is not None:
            yield self.engine.deadline(self._silence_limit)
            if self.faults:
                yield self.engine.started_at + HEALTHY
        else:
            yield self.restart_policy.at
        if self.idle_since is not None:
            yield self.idle_since + KEEP_WARM

    @property
    def _silence_limit(self) -> float:
        """Seconds for which its engine may say nothing."""
        loading = self.report is not None and self.report.state == "loading"
        return LOAD_TIMEOUT if loading else REPORT_TIMEOUT

    def complaint(self, engine: Child[EngineId], now: float) -> str | None:
        """Return why its engine must be killed, if it must."""
        report = self.report
        if report is not None and report.oldest_run > LONGEST_RUN:
            return f"an inference has taken {report.oldest_run:.0f} s"
        if report is not None and report.state == "ready" and report.reason:
            return shown_reason(f"every inference fails: {report.reason}")
        return engine.silence(now, self._silence_limit)

    def count_fault(
        self, engine: Child[EngineId], report: EngineReport | None, code: int | None, now: float
    ) -> None:
        """Give the model up if it has ended its engine too often in a row."""
        if code is not None and -code == signal.SIGXCPU:
            self.give_up(TOO_LONG)
            return
        # If an engine that was ready fell silent, that may be the fault of the machine.
        useless = report is not None and (
            report.state == "loading" or report.oldest_run > LONGEST_RUN or report.reason != ""
        )
        if not is_fault(code) and not (engine.killed_for is not None and useless):
            return
        self.faults = 1 if now - engine.started_at >= HEALTHY else self.faults + 1
        if self.faults >= MOST_FAULTS:
            self.give_up(f"{self.crash}, {self.faults} times in a row")

    def give_up(self, reason: str) -> None:
        """Never try it again: the variant first, if it is one that ran, and the model itself without one."""
        if self.variant is None:
            self.failed = reason
            return
        self.variant, self.variant_trouble, self.faults = None, shown_reason(reason), 0


class ModelTable:
    """Fetches the models that pipelines need, and runs one engine per model.

    `rng` returns numbers in [0, 1) for the jitter.
    """

    def __init__(self, rng: Callable[[], float]) -> None:
        self._rng = rng
        self._models: dict[str, Model] = {}
        self._last_missing: MissingAccelerator | None = None  # as the last engine that reported found it

    # events

    def fetched(self, event: ModelFetched) -> None:
        """Record that a model was fetched."""
        model = self._models.get(event.digest)
        if model is not None and model.fetching:
            model.fetching = False
            model.trouble = None
            model.manifest = event.manifest
            model.variant, model.variant_trouble = event.variant, ""

    def refused(self, event: ModelRefused) -> None:
        """Record that a model could not be fetched, temporarily or permanently."""
        model = self._models.get(event.digest)
        if model is None or not model.fetching:
            return
        reason = shown_reason(event.reason) or None
        if event.permanent:
            model.fetching = False
            model.failed = reason
        else:
            model.trouble = reason

    def reported(self, child_id: EngineId, report: EngineReport, now: float) -> None:
        """Record a report. Only the present engine of a model counts."""
        present = self._present(child_id)
        if present is None:
            return
        model, engine = present
        engine.heard_at = now
        model.report = report
        if report.state != "loading":
            model.missing_accelerator = self._last_missing = report.missing
        if report.state == "ready":
            model.crash = None
        elif report.state == "failed" and engine.staying:
            model.failed = shown_reason(report.reason) or "the engine cannot load it"
        elif report.state == "damaged" and engine.staying:
            model.damaged = True
            model.trouble = shown_reason(report.reason) or None

    def only_counts(self, child_id: EngineId, report: EngineReport) -> bool:
        """Whether an engine reports other counters than before, and nothing else: nothing follows from it."""
        present = self._present(child_id)
        before = None if present is None else present[0].report
        return before is not None and _decisive(report) == _decisive(before)

    def exited(self, child_id: EngineId, code: int | None, now: float) -> None:
        """Decide if the engine is started again, its model fetched again, or given up."""
        present = self._present(child_id)
        if present is None:
            return
        model, engine = present
        report, model.report = model.report, None
        model.engine = None
        model.idle_since = None
        if model.damaged:
            model.damaged = False
            model.manifest = None  # so that it is fetched again
            model.restart_policy.crashed(engine.started_at, now, self._rng())
        elif engine.asked_at is None:
            model.crash = model.last_crash = engine.killed_for or exit_reason("engine", code)
            model.restarts += 1
            model.restart_policy.crashed(engine.started_at, now, self._rng())
            model.count_fault(engine, report, code, now)

    def try_again(self, digest: str) -> None:
        """Try a failed model again: a changed spec may be meant to make it work."""
        model = self._models.get(digest)
        if model is not None and model.failed is not None:
            model.failed = model.crash = None
            model.faults = 0
            model.restart_policy = RestartPolicy()

    # decisions

    def kill_stuck(self, now: float) -> list[Action]:
        """Kill the engines that do not report in time, or do not work."""
        actions: list[Action] = []
        for model in self._models.values():
            if model.engine is not None and model.engine.staying:
                complaint = model.complaint(model.engine, now)
                if complaint is not None:
                    actions.append(model.engine.kill(complaint))
        return actions

    def keep(self, wanted: Mapping[str, str], used: set[str], now: float) -> list[Action]:
        """Fetch, start and stop. `used`: by running cameras, and by pipelines that should run.

        `wanted`: the ids of the models of pipelines that should run, by digest.
        """
        for digest in sorted(wanted.keys() - self._models.keys()):
            self._models[digest] = Model(digest=digest, model_id=wanted[digest])
        actions: list[Action] = []
        for digest, model in list(self._models.items()):
            actions += self._keep_model(model, digest in wanted, digest in used, now)
        return actions

    def _keep_model(self, model: Model, wanted: bool, used: bool, now: float) -> list[Action]:
        if used:
            model.idle_since = None
        elif model.idle_since is None:
            model.idle_since = now
        if model.engine is not None and now - model.engine.started_at >= HEALTHY:
            model.faults = 0
        actions: list[Action] = []
        cold = model.idle_since is not None and now - model.idle_since >= KEEP_WARM
        if model.failed is not None or (model.damaged and model.engine is not None):
            actions += model.engine.stop(now) if model.engine is not None else []
        elif model.manifest is None:
            actions += _keep_fetch(model, wanted)
        elif model.engine is None:
            if wanted and now >= model.restart_policy.at:
                model.runs += 1
                model.engine = Child(id=EngineId(model.digest, model.runs), started_at=now)
                actions.append(StartEngine(model.engine.id, model.manifest, model.variant))
        elif model.engine.asked_at is not None or cold or (model.report and model.report.outdated):
            actions += model.engine.stop(now)
        if not used and model.engine is None:
            del self._models[model.digest]
        return actions

    # facts

    def deadlines(self) -> Iterator[float]:
        """When models must be looked at again, if nothing happens until then. Some may be over."""
        return (at for model in self._models.values() for at in model.deadlines())

    def ready(self, digest: str) -> Manifest | None:
        """Return the manifest of a model whose engine exists, so that a camera can start.

        A pipeline may have come back to a model only now, as the engine of another one was asked to stop: it
        is wanted, and in the table, from the next look on.
        """
        model = self._models.get(digest)
        if model is None or model.engine is None or not model.engine.staying:
            return None
        return model.manifest

    def is_ready(self, digest: str) -> bool:
        """Whether an engine of the model can infer now."""
        model = self._models.get(digest)
        return (
            model is not None
            and model.engine is not None
            and model.engine.staying
            and model.report is not None
            and model.report.state == "ready"
        )

    def failure(self, digest: str) -> str | None:
        """Why a model cannot work; None if it may."""
        model = self._models.get(digest)
        return None if model is None else model.failed

    def crashes(self, digest: str) -> int:
        """How often its engine has crashed."""
        model = self._models.get(digest)
        return 0 if model is None else model.restarts

    def last_crash(self, digest: str) -> str:
        """Why its engine has crashed last, even if another one is ready."""
        model = self._models.get(digest)
        return "" if model is None else model.last_crash

    def failures(self) -> dict[str, str]:
        """Reasons why models cannot work, by digest."""
        return {digest: model.failed for digest, model in self._models.items() if model.failed is not None}

    def obstacle(self, refs: Iterable[ModelRef]) -> str | None:
        """Return why a camera that may start, and needs these models, has not started."""
        return next((why for ref in refs if (why := self._obstacle(ref)) is not None), None)

    def _obstacle(self, ref: ModelRef) -> str | None:
        model = self._models.get(ref.digest)
        if model is None:
            return None
        if model.manifest is None:
            return f"fetching model {ref.id}" + (f": {model.trouble}" if model.trouble is not None else "")
        return model.crash

    def crash(self, refs: Iterable[ModelRef]) -> str | None:
        """Return why the last engine of one of these models ended, until one is ready."""
        models = (self._models.get(ref.digest) for ref in refs)
        return next((model.crash for model in models if model is not None and model.crash), None)

    def faults(self, refs: Iterable[ModelRef]) -> int:
        """The engines in a row that one of these models ended, at most."""
        models = (self._models.get(ref.digest) for ref in refs)
        return max((model.faults for model in models if model is not None), default=0)

    def stats(self) -> tuple[EngineStat, ...]:
        """The models, by digest, for the device's status."""
        return tuple(
            EngineStat(
                digest=digest,
                state=model.state,
                reason=model.failed or model.trouble or model.crash or "",
                inferences=model.report.inferences if model.report else 0,
                restarts=model.restarts,
                provider=model.report.provider if model.report else "",
                missing_accelerator=model.missing_accelerator,
                activity=model.report.activity if model.report else "",
                batching=model.report.batching if model.report else None,
                variant=model.report.variant if model.report else "",
                variant_trouble=model.variant_trouble
                or (model.report.variant_trouble if model.report else ""),
                model=model.model_id,
            )
            for digest, model in sorted(self._models.items())
        )

    def reports(self) -> dict[tuple[str, int], EngineReport]:
        """The last report of each engine, by the digest of its model and the number of its start."""
        return {
            (digest, model.runs): model.report
            for digest, model in self._models.items()
            if model.report is not None
        }

    def missing_accelerator(self) -> MissingAccelerator | None:
        """The accelerator that a model does not run on, although the device should have it.

        It is still known after the last model has failed for the lack of it.
        """
        missing = (model.missing_accelerator for _, model in sorted(self._models.items()))
        return next((each for each in missing if each is not None), self._last_missing)

    def engines(self) -> Iterator[Child[EngineId]]:
        """The processes."""
        return (model.engine for model in self._models.values() if model.engine is not None)

    def check(self) -> None:
        """Assert the invariants."""
        for model in self._models.values():
            assert not (model.failed and model.engine and model.engine.staying), "an engine that cannot work"
            assert model.engine is None or model.manifest is not None
            assert not (model.fetching and model.manifest)

    def _present(self, child_id: EngineId) -> tuple[Model, Child[EngineId]] | None:
        """Return the model and its engine, unless this engine was replaced."""
        model = self._models.get(child_id.digest)
        if model is None or model.engine is None or model.engine.id != child_id:
            return None
        return model, model.engine


def _decisive(report: EngineReport) -> tuple[object, ...]:
    """All of a report that decisions and the observed state depend on."""
    is_stuck = report.oldest_run > LONGEST_RUN
    return report.state, report.reason, is_stuck, report.outdated, report.missing


def _keep_fetch(model: Model, wanted: bool) -> list[Action]:
    if wanted and not model.fetching:
        model.fetching = True
        return [FetchModel(model.digest)]
    if not wanted and model.fetching:
        model.fetching = False
        return [CancelFetch(model.digest)]
    return []
