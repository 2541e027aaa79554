"""A roll-out of a model: a few pipelines first, then the others in waves, and back if one is worse. Pure.

measuring ──data of all──▶ shadow ──all good──▶ canary ──all good──▶ waves ──all good──▶ done
shadow ──one bad──▶ returned       canary, waves ──one bad, cancelled──▶ returning ──all back──▶ returned
any ──cancelled, and kept──▶ stopped

In `shadow`, the new model infers some frames of the first pipelines, beside the old one. Each step takes what
is seen of the pipelines, and returns what to change. A change that has no effect is asked for again, so a
roll-out goes on after an error, and after a restart of what drives it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from streamfleet_core.protocol.limits import MAX_SHADOWS
from streamfleet_core.protocol.tasks.rollouts import OVER, Phase, RolloutLimits, Stage
from streamfleet_core.rollout.figures import SETTLING, Figures, Recorder, Seen
from streamfleet_core.rollout.judgement import Judgement, judge, judge_alone, judge_shadow, summary

ASK_AGAIN = 5.0  # seconds without an effect

_UP = ("running", "paused", "ended")
_STILL = ("paused", "ended", "failed", "pending", "stopping")  # it will not run soon


@dataclass(frozen=True, slots=True)
class Switch:
    """Let a pipeline use a model."""

    pipeline_id: str
    model: str


@dataclass(frozen=True, slots=True)
class Note:
    """For the report: what happened with one pipeline, or with the roll-out."""

    pipeline_id: str | None
    text: str


Action = Switch | Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done."""

    old: str
    new: str
    canaries: int  # pipelines that go first
    max_unavailable: int
    limits: RolloutLimits = field(default_factory=RolloutLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one pipeline is."""

    stage: Stage = "waiting"
    before: Figures = field(default_factory=Figures)
    after: Figures = field(default_factory=Figures)
    is_judged: bool = True  # False: it did not run with the old model, so nothing can be compared
    restarts: int = 0  # of its process, before it was switched
    verdict: str = ""
    shadow: str = ""  # the verdict about the new model beside the old one


@dataclass(slots=True)
class _Target:
    """One pipeline of the roll-out."""

    before: Recorder = field(default_factory=Recorder)
    after: Recorder = field(default_factory=Recorder)
    stage: Stage = "waiting"
    switched_at: float | None = None  # to the new model, or back; None: before what drives it was restarted
    asked_at: float = float("-inf")
    is_judged: bool = True
    restarts: int = 0
    verdict: str = ""
    shadow: str = ""
    shadowed_at: float | None = None  # the first frame of the shadow

    @classmethod
    def of(cls, progress: Progress) -> _Target:
        return cls(
            before=Recorder(progress.before),
            after=Recorder(progress.after),
            stage=progress.stage,
            is_judged=progress.is_judged,
            restarts=progress.restarts,
            verdict=progress.verdict,
            shadow=progress.shadow,
        )

    @property
    def progress(self) -> Progress:
        return Progress(
            stage=self.stage,
            before=self.before.figures,
            after=self.after.figures,
            is_judged=self.is_judged,
            restarts=self.restarts,
            verdict=self.verdict,
            shadow=self.shadow,
        )


class Rollout:
    """Moves pipelines from one model to another. `targets`: in the order in which they are moved."""

    def __init__(
        self, plan: Plan, targets: Mapping[str, Progress], *, phase: Phase = "measuring", reason: str = ""
    ) -> None:
        self._plan = plan
        self._targets = {pipeline_id: _Target.of(progress) for pipeline_id, progress in targets.items()}
        self._phase: Phase = phase
        self._began_at: float | None = None  # of the phase, as far as it is known
        self._reason = reason
        self._shadows: tuple[str, ...] = ()

    # facts

    @property
    def phase(self) -> Phase:
        """Where it is."""
        return self._phase

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self._phase in OVER

    @property
    def reason(self) -> str:
        """Why it returns; empty if it does not."""
        return self._reason

    @property
    def shadows(self) -> tuple[str, ...]:
        """The pipelines in which the new model infers frames, too."""
        return self._shadows if self._phase == "shadow" else ()

    def progress_of(self, pipeline_id: str) -> Progress:
        """How far a pipeline is."""
        return self._targets[pipeline_id].progress

    def stages(self) -> dict[str, tuple[Stage, str, str]]:
        """Of each pipeline what changes rarely: its stage, and the verdicts."""
        return {name: (each.stage, each.verdict, each.shadow) for name, each in self._targets.items()}

    def verdicts(self) -> dict[str, str]:
        """What became of each pipeline."""
        return {pipeline_id: each.verdict or each.stage for pipeline_id, each in self._targets.items()}

    # steps

    def cancel(self, *, keep: bool) -> None:
        """Go back to the old model, or leave each pipeline with the model that it has."""
        if self.is_over:
            return
        self._reason = self._reason or "it was cancelled"
        self._enter("stopped" if keep else "returning")

    def step(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Take what is seen now, about once a second. Returns what to do, in order."""
        if self.is_over:
            return []
        if self._began_at is None:
            self._began_at = now
        actions = self._look(seen, now)
        if self._phase == "measuring" and self._is_measured(seen, now - self._began_at):
            actions.append(Note(None, f"{self._plan.canaries} of {len(self._targets)} pipelines go first"))
            self._enter("shadow" if self._plan.limits.shadow else "canary")
        if self._phase == "shadow":
            actions += self._compare(seen, now)
        if self._phase in ("canary", "waves"):
            actions += self._judge(seen, now)
        if self._phase == "canary" and self._all_done(self._first()):
            actions.append(Note(None, "all of them are good: the others follow"))
            self._enter("waves")
        if self._phase == "waves" and self._all_done(self._targets):
            self._enter("done")
        if self._phase in ("canary", "waves"):
            actions += self._forward(seen, now)
        elif self._phase == "returning":
            actions += self._return(seen, now)
        return actions

    def _enter(self, phase: Phase) -> None:
        self._phase, self._began_at = phase, None

    def _look(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Record what pipelines do, and leave out those that others took away or changed."""
        notes: list[Action] = []
        for pipeline_id, target in self._targets.items():
            if target.stage == "gone":
                continue
            if target.switched_at is None and target.stage != "waiting":
                target.switched_at = now
            now_seen = seen.get(pipeline_id)
            if now_seen is None or now_seen.model not in (self._plan.old, self._plan.new):
                target.stage = "gone"
                target.verdict = "it was removed" if now_seen is None else f"it was given {now_seen.model}"
                notes.append(Note(pipeline_id, f"left out: {target.verdict} meanwhile"))
            elif target.stage == "waiting" and self._phase != "shadow" and now_seen.model == self._plan.old:
                target.before.record(now_seen)
            elif target.stage in ("switched", "good") and now_seen.uses_new:
                target.after.record(now_seen)
        return notes

    def _is_measured(self, seen: Mapping[str, Seen], passed: float) -> bool:
        """Whether there is enough data of each pipeline that runs. One that flaps holds up nothing."""
        observe = self._plan.limits.observe
        return passed >= 3 * observe + SETTLING or all(
            target.before.figures.seconds >= observe
            for pipeline_id, target in self._targets.items()
            if target.stage != "gone" and seen[pipeline_id].status not in _STILL
        )

    def _compare(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Judge the new model beside the old one, in the first pipelines that run."""
        if not self._shadows:
            self._shadows = tuple(self._comparable(seen))
        if self._began_at is None:
            self._began_at = now
        actions: list[Action] = []
        unknown = False
        for pipeline_id in self._shadows:
            target = self._targets[pipeline_id]
            if target.stage == "gone" or target.shadow:
                continue
            judgement = self._shadow_judgement(target, seen[pipeline_id], now)
            if judgement.verdict == "unknown":
                unknown = True
                continue
            target.shadow = judgement.reason
            actions.append(Note(pipeline_id, f"{judgement.verdict}: {judgement.reason}"))
            if judgement.verdict == "bad":
                target.verdict = judgement.reason
                self._reason = f"{pipeline_id}: {judgement.reason}"
                self._enter("returning")
                return actions
        if not unknown:
            self._enter("canary")
        return actions

    def _comparable(self, seen: Mapping[str, Seen]) -> Iterable[str]:
        """The first pipelines that have run, as many of each device as it compares."""
        of_device: Counter[str | None] = Counter()
        for pipeline_id in self._first():
            known = seen.get(pipeline_id)
            is_measured = self._targets[pipeline_id].before.figures.frames > 0
            if known is None or known.status in _STILL or not is_measured:
                continue
            of_device[known.device] += 1
            if of_device[known.device] <= MAX_SHADOWS:
                yield pipeline_id

    def _shadow_judgement(self, target: _Target, seen: Seen, now: float) -> Judgement:
        shadow, limits = seen.shadow, self._plan.limits
        if target.shadowed_at is None and shadow is not None and shadow.counts.frames + shadow.counts.failed:
            target.shadowed_at = now
        running_for = 0.0 if target.shadowed_at is None else now - target.shadowed_at
        found = judge_shadow(shadow, running_for=running_for, limits=limits)
        assert self._began_at is not None
        waited = now - self._began_at
        if found.verdict != "unknown" or waited <= limits.start + 2 * limits.shadow:
            return found
        if seen.status != "running":
            return Judgement("good", f"not compared: it is {seen.status}")
        why = f": {shadow.reason}" if shadow is not None and shadow.reason else ""
        return Judgement("bad", f"it has not inferred enough frames after {waited:.0f} s{why}")

    def _judge(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        actions: list[Action] = []
        for pipeline_id, target in self._targets.items():
            if target.stage not in ("switched", "good") or seen[pipeline_id].model != self._plan.new:
                continue
            judgement = self._judgement(target, seen[pipeline_id], now)
            if judgement.verdict == "bad":
                target.stage, target.verdict = "bad", judgement.reason
                self._reason = f"{pipeline_id}: {judgement.reason}"
                self._enter("returning")
                actions.append(Note(pipeline_id, f"bad: {judgement.reason}"))
                return actions
            if judgement.verdict == "good" and target.stage == "switched":
                target.stage, target.verdict = "good", judgement.reason
                actions.append(Note(pipeline_id, f"good: {judgement.reason}"))
        return actions

    def _judgement(self, target: _Target, seen: Seen, now: float) -> Judgement:
        if not target.is_judged:
            fault = judge_alone(seen, self._plan.new)
            return fault or Judgement("good", f"not compared: it was not running, and is {seen.status}")
        assert target.switched_at is not None
        target.restarts = min(target.restarts, seen.restarts)  # of a new run they begin at 0
        before, after = target.before.figures, target.after.figures
        if target.stage == "good" and seen.status not in ("running", "failed", "backoff"):
            return Judgement("unknown")  # its device may be lost, which is no fault of the model
        found = judge(
            before,
            after,
            seen,
            restarts=target.restarts,
            switched_for=now - target.switched_at,
            limits=self._plan.limits,
        )
        return found if found.verdict == "bad" else Judgement(found.verdict, summary(before, after))

    def _forward(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Switch as many of the next pipelines as may be unavailable."""
        waiting = self._first() if self._phase == "canary" else list(self._targets)
        room = self._plan.max_unavailable - self._unavailable(seen)
        waited = 0.0 if self._began_at is None else now - self._began_at
        actions = self._ask_again(seen, now, ("switched",), self._plan.new)
        for pipeline_id in waiting:
            target, known = self._targets[pipeline_id], seen.get(pipeline_id)
            if target.stage != "waiting" or known is None:
                continue
            is_up = known.status in _UP
            if is_up and room <= 0:
                break
            if not is_up and known.status not in _STILL and waited < self._plan.limits.start:
                continue  # it may run in a moment
            # One that is down already takes no further room.
            room -= is_up
            target.is_judged = target.before.figures.frames > 0 and known.status == "running"
            target.stage, target.switched_at, target.asked_at = "switched", now, now
            target.restarts = known.restarts
            actions.append(Switch(pipeline_id, self._plan.new))
        return actions

    def _return(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Take the old model again: at once where the new one is not proven, or nothing runs that could stop.

        Of all others, no more than may be unavailable go back at a time. What is down for another reason
        holds up none of them.
        """
        old = self._plan.old
        actions = self._ask_again(seen, now, ("back",), old)
        for pipeline_id, target in self._targets.items():
            if target.stage in ("bad", "switched"):
                target.stage, target.switched_at, target.asked_at = "back", now, now
                actions.append(Switch(pipeline_id, old))
        waited = 0.0 if self._began_at is None else now - self._began_at
        room = self._plan.max_unavailable - sum(
            target.stage == "back" and self._goes_back(target, seen[pipeline_id], now)
            for pipeline_id, target in self._targets.items()
        )
        for pipeline_id, target in self._targets.items():
            if target.stage != "good":
                continue
            status = seen[pipeline_id].status
            is_up = status in _UP
            if is_up and room <= 0:
                continue
            if not is_up and status not in _STILL and waited < self._plan.limits.start:
                continue  # it may run, and not be seen for a moment
            room -= is_up
            target.stage, target.asked_at = "back", now
            target.switched_at = now if is_up else float("-inf")  # what is down takes no room
            actions.append(Switch(pipeline_id, old))
        stages = {target.stage for target in self._targets.values()}
        back = [pipeline_id for pipeline_id, target in self._targets.items() if target.stage == "back"]
        if "good" not in stages and all(seen[pipeline_id].model == old for pipeline_id in back):
            self._enter("returned")
        return actions

    def _ask_again(
        self, seen: Mapping[str, Seen], now: float, stages: tuple[Stage, ...], model: str
    ) -> list[Action]:
        actions: list[Action] = []
        for pipeline_id, target in self._targets.items():
            overdue = target.stage in stages and now - target.asked_at >= ASK_AGAIN
            if overdue and seen[pipeline_id].model != model:
                target.asked_at = now
                actions.append(Switch(pipeline_id, model))
        return actions

    def _unavailable(self, seen: Mapping[str, Seen]) -> int:
        """Pipelines that do not run, or that may not, as they were just switched."""
        return sum(
            target.stage == "switched" or seen[pipeline_id].status not in _UP
            for pipeline_id, target in self._targets.items()
            if target.stage != "gone"
        )

    def _goes_back(self, target: _Target, seen: Seen, now: float) -> bool:
        """Whether it has yet to run with the old model again. If it never does, it holds up no other one."""
        assert target.switched_at is not None
        is_back = seen.applied and not seen.uses_new and seen.status in _UP
        return not is_back and now - target.switched_at <= self._plan.limits.start

    def _first(self) -> list[str]:
        return list(self._targets)[: self._plan.canaries]

    def _all_done(self, chosen: Mapping[str, object] | list[str]) -> bool:
        return all(self._targets[pipeline_id].stage in ("good", "gone") for pipeline_id in chosen)


def canaries_of(count: int, share: float) -> int:
    """How many of so many pipelines go first."""
    return math.ceil(count * share)


def spread(pipelines: Mapping[str, str | None]) -> list[str]:
    """The pipelines, those of different devices first, so that canaries try many. Given with devices."""
    by_device: dict[str, list[str]] = {}
    for pipeline_id in sorted(pipelines):
        by_device.setdefault(pipelines[pipeline_id] or "", []).append(pipeline_id)
    turns = ((number, device) for device, each in by_device.items() for number in range(len(each)))
    return [by_device[device][number] for number, device in sorted(turns)]
