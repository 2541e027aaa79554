"""Carries out roll-outs of models: what is stored of them, and what devices are asked and told. Pure.

`core.rollout` decides from what is seen of the pipelines. Each decision is stored, and another broker goes on
with it. What was measured since the last one is measured again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from typing_extensions import assert_never

from streamfleet_broker.fleet.capacity.placement import meets
from streamfleet_broker.fleet.effects import LogEvent
from streamfleet_broker.fleet.pipeline_status import status
from streamfleet_broker.fleet.records import PipelineRecord, RolledOutRecord, RolloutRecord
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.limits import MAX_ACTIVE_ROLLOUTS, MAX_ROLLED_OUT, MAX_ROLLOUTS
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.tasks.rollouts import (
    OVER,
    CancelRollout,
    GetRollout,
    ListRollouts,
    RolloutEntry,
    RolloutPlan,
    RolloutRequest,
    RolloutView,
    Stage,
    StartRollout,
)
from streamfleet_core.protocol.tasks.trials import Shadow
from streamfleet_core.protocol.values import ModelRef
from streamfleet_core.rollout.figures import Seen
from streamfleet_core.rollout.rollout import Action, Plan, Progress, Rollout, Switch, canaries_of, spread

INTERVAL = 1.0  # seconds between two steps


class Rollouts:
    """Carries out all roll-outs."""

    def __init__(self, state: State, use_model: Callable[[str, ModelRef, float], None]) -> None:
        """`use_model` lets a pipeline use a model from now on."""
        self._state = state
        self._use_model = use_model
        self._stepped_at = float("-inf")
        targets: dict[str, list[RolledOutRecord]] = {}
        for each in state.records.rolled_out.values():
            targets.setdefault(each.rollout, []).append(each)
        self._active = {
            record.id: _restored(record, targets.get(record.id, ()))
            for record in sorted(state.records.rollouts.values(), key=lambda each: each.n)
            if record.phase not in OVER
        }
        self._measure()

    # requests

    def do(self, request: RolloutRequest, now: float) -> Reply | Error:
        """Execute a request."""
        match request:
            case StartRollout():
                return self._start(request, now)
            case ListRollouts():
                return Reply(self._list())
            case GetRollout():
                return self._get(request.id)
            case CancelRollout():
                return self._cancel(request, now)
            case _:
                assert_never(request)

    def _get(self, rollout_id: str) -> Reply | Error:
        record = self._state.records.rollouts.get(rollout_id)
        if record is None:
            return Error("not_found", f"no roll-out {rollout_id}")
        return Reply(self._view(record))

    def _start(self, request: StartRollout, now: float) -> Reply | Error:
        plan, known = request.plan, self._state.records.rollouts.get(request.id)
        if known is not None:
            if known.plan != plan:
                return Error("conflict", f"there is another roll-out {request.id}")
            return Reply(self._view(known))
        chosen = self._chosen(plan)
        if (refusal := self._refusal(plan, chosen)) is not None:
            return refusal
        self._forget_oldest()
        names = spread({record.pipeline_id: record.device for record in chosen})
        record = RolloutRecord(
            id=request.id,
            plan=plan,
            canaries=canaries_of(len(names), plan.canary),
            n=max((each.n for each in self._state.records.rollouts.values()), default=0) + 1,
            created_at=self._state.wall(now),
        )
        self._state.records.write(record)
        for number, name in enumerate(names):
            self._state.records.write(
                RolledOutRecord(rollout=record.id, pipeline_id=name, n=number, progress=Progress())
            )
        self._active[record.id] = Rollout(_plan_of(record), dict.fromkeys(names, Progress()))
        self._measure()
        self._state.after_commit.append(LogEvent(record.id, f"moves {len(names)} pipelines to {plan.new.id}"))
        return Reply(self._view(record))

    def _chosen(self, plan: RolloutPlan) -> list[PipelineRecord]:
        return [
            record
            for record in self._state.records.pipelines.values()
            if record.spec.model.id == plan.old.id
            and record.desired_status != "stop"
            and not self._state.has_finished(record)
            and meets(record.labels, plan.selector)
        ]

    def _refusal(self, plan: RolloutPlan, chosen: list[PipelineRecord]) -> Error | None:
        if plan.old.id == plan.new.id:
            return Error("invalid", f"expected another model than {plan.old.id}")
        if not chosen:
            return Error("conflict", f"no pipeline uses {plan.old.id}")
        if len(chosen) > MAX_ROLLED_OUT:
            return Error(
                "too_many",
                f"expected at most {MAX_ROLLED_OUT} pipelines, got {len(chosen)}: select some by labels",
            )
        going_on = {of: rollout for of, rollout in self._active.items() if not rollout.is_over}
        if len(going_on) >= MAX_ACTIVE_ROLLOUTS:
            return Error(
                "too_many", f"there are {MAX_ACTIVE_ROLLOUTS} roll-outs already: wait, or cancel one"
            )
        taken = {name: of for of, rollout in going_on.items() for name in rollout.stages()}
        for record in chosen:
            if record.pipeline_id in taken:
                text = f"pipeline {record.pipeline_id} is part of the roll-out {taken[record.pipeline_id]}"
                return Error("conflict", f"{text}: wait for its end, or cancel it")
        return None

    def _forget_oldest(self) -> None:
        """Make room for another roll-out."""
        over = [each for each in self._state.records.rollouts.values() if each.phase in OVER]
        surplus = len(self._state.records.rollouts) + 1 - MAX_ROLLOUTS
        for record in sorted(over, key=lambda each: each.n)[: max(0, surplus)]:
            for target in self._targets(record.id):
                self._state.records.remove(target)
            self._state.records.remove(record)

    def _cancel(self, request: CancelRollout, now: float) -> Reply | Error:
        record, rollout = self._state.records.rollouts.get(request.id), self._active.get(request.id)
        if record is None:
            return Error("not_found", f"no roll-out {request.id}")
        if rollout is None or record.phase in OVER:
            return Error("conflict", f"roll-out {request.id} is over: it is {record.phase}")
        rollout.cancel(keep=request.keep)
        self._step(record, rollout, now)
        self._measure()
        return self._get(request.id)

    # time

    def tick(self, now: float) -> None:
        """Take the next step of each roll-out, once a second."""
        if not self._active or now - self._stepped_at < INTERVAL:
            return
        self._stepped_at = now
        for rollout_id, rollout in list(self._active.items()):
            record = self._state.records.rollouts.get(rollout_id)
            # The store may not have taken its beginning, or may not take its end for a while.
            if record is None or record.phase in OVER:
                del self._active[rollout_id]
            else:
                self._step(record, rollout, now)
        self._measure()

    def _step(self, record: RolloutRecord, rollout: Rollout, now: float) -> None:
        for action in rollout.step(self._seen(record, rollout), now):
            self._perform(record, action, now)
        self._store(record, rollout, now)

    def _perform(self, record: RolloutRecord, action: Action, now: float) -> None:
        if isinstance(action, Switch):
            plan = record.plan
            model = plan.new if action.model == plan.new.id else plan.old
            self._use_model(action.pipeline_id, model, now)
        else:
            text = f"{action.pipeline_id}: {action.text}" if action.pipeline_id else action.text
            self._state.after_commit.append(LogEvent(record.id, text))

    def _store(self, record: RolloutRecord, rollout: Rollout, now: float) -> None:
        """Write what has changed. Figures alone are written with the next decision about their pipeline."""
        is_turn = (record.phase, record.reason) != (rollout.phase, rollout.reason)
        for name, decided in rollout.stages().items():
            target = self._state.records.rolled_out[f"{record.id}/{name}"]
            known = target.progress
            if is_turn or decided != (known.stage, known.verdict, known.shadow):
                self._state.records.write(replace(target, progress=rollout.progress_of(name)))
        if is_turn:
            ended_at = self._state.wall(now) if rollout.is_over else None
            self._state.records.write(
                replace(record, phase=rollout.phase, reason=rollout.reason, ended_at=ended_at)
            )
            event = f"{rollout.phase}: {rollout.reason}" if rollout.reason else rollout.phase
            self._state.after_commit.append(LogEvent(record.id, event))

    # what devices measure, and what is seen of them

    def _measure(self) -> None:
        """Let devices measure and try what roll-outs need."""
        records = self._state.records.rollouts
        plans = {
            name: records[name].plan
            for name, rollout in self._active.items()
            if name in records and not rollout.is_over
        }
        models = {model.digest for plan in plans.values() for model in (plan.old, plan.new)}
        shadows = {
            name: Shadow(pipeline_id=name, model=plan.new, share=plan.share, dataset=plan.dataset)
            for rollout_id, plan in plans.items()
            for name in self._active[rollout_id].shadows
        }
        if models == self._state.measured_models and shadows == self._state.shadows:
            return
        concerned = {
            record.device
            for record in self._state.records.pipelines.values()
            if record.spec.model.digest in models ^ self._state.measured_models
            or shadows.get(record.pipeline_id) != self._state.shadows.get(record.pipeline_id)
        }
        self._state.measured_models, self._state.shadows = frozenset(models), shadows
        self._state.touch(concerned)

    def _seen(self, record: RolloutRecord, rollout: Rollout) -> dict[str, Seen]:
        found = (self._state.active_pipeline(name) for name in rollout.stages())
        return {each.pipeline_id: self._seen_one(each, record.plan.new) for each in found if each is not None}

    def _seen_one(self, pipeline: PipelineRecord, new: ModelRef) -> Seen:
        holder = None if pipeline.holder is None else self._state.devices[pipeline.holder]
        observed = self._state.observed(pipeline)
        known = Seen(
            model=pipeline.spec.model.id,
            status=status(pipeline, None if holder is None else holder.state, observed),
            reason="" if observed is None else observed.reason,
            device=pipeline.device,
            restarts=0 if observed is None else observed.restarts,
            applied=observed is not None and observed.generation == pipeline.generation,
        )
        device = None if pipeline.device is None else self._state.devices[pipeline.device]
        figures = None if device is None else device.figures.get(pipeline.pipeline_id)
        if figures is None:
            return known
        return replace(
            known,
            uses_new=figures.model == new.digest,
            trouble=figures.trouble,
            crashes=figures.crashes,
            at=figures.at,
            frames=figures.frames,
            objects=figures.objects,
            latency=figures.latency,
            shadow=figures.shadow,
        )

    # views

    def _list(self) -> tuple[RolloutView, ...]:
        stages: dict[str, Counter[Stage]] = {}
        for each in self._state.records.rolled_out.values():
            stages.setdefault(each.rollout, Counter())[each.progress.stage] += 1
        records = sorted(self._state.records.rollouts.values(), key=lambda each: each.n)
        return tuple(_view(record, stages.get(record.id, {})) for record in records)

    def _view(self, record: RolloutRecord) -> RolloutView:
        record = self._state.records.rollouts.get(record.id, record)
        targets = sorted(self._targets(record.id), key=lambda each: each.n)
        stages = Counter(each.progress.stage for each in targets)
        return replace(_view(record, stages), entries=tuple(map(_entry, targets)))

    def _targets(self, rollout_id: str) -> list[RolledOutRecord]:
        return [each for each in self._state.records.rolled_out.values() if each.rollout == rollout_id]


def _view(record: RolloutRecord, stages: Mapping[Stage, int]) -> RolloutView:
    """A roll-out without its pipelines. `stages`: their number, by stage."""
    return RolloutView(
        id=record.id,
        plan=record.plan,
        phase=record.phase,
        reason=record.reason,
        created_at=record.created_at,
        ended_at=record.ended_at,
        canaries=record.canaries,
        stages=dict(stages),
    )


def _entry(target: RolledOutRecord) -> RolloutEntry:
    progress = target.progress
    return RolloutEntry(target.pipeline_id, progress.stage, progress.verdict, progress.shadow)


def _plan_of(record: RolloutRecord) -> Plan:
    plan = record.plan
    return Plan(
        old=plan.old.id,
        new=plan.new.id,
        canaries=record.canaries,
        max_unavailable=plan.max_unavailable,
        limits=plan.limits,
    )


def _restored(record: RolloutRecord, targets: Iterable[RolledOutRecord]) -> Rollout:
    ordered = sorted(targets, key=lambda each: each.n)
    progress = {each.pipeline_id: each.progress for each in ordered}
    return Rollout(_plan_of(record), progress, phase=record.phase, reason=record.reason)
