"""A roll-out of a model: a few pipelines first, then the others in waves, and back if one is worse. Pure.

measuring ──data of all──▶ canary ──all good──▶ waves ──all good──▶ done
canary, waves ──one bad──▶ returning ──all back──▶ returned

Each step takes what is seen of the pipelines, and returns what to change. A change that has no effect is
asked for again, so a roll-out goes on after an error of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from streamfleet_core.rollout.figures import SETTLING, Figures, Recorder, Seen
from streamfleet_core.rollout.judgement import Judgement, Limits, judge, summary

ASK_AGAIN = 5.0  # seconds without an effect

Phase = Literal["measuring", "canary", "waves", "returning", "done", "returned"]
_UP = ("running", "paused", "ended")


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


@dataclass(slots=True)
class _Target:
    """One pipeline of the roll-out."""

    before: Recorder = field(default_factory=Recorder)
    after: Recorder = field(default_factory=Recorder)
    stage: Literal["waiting", "switched", "good", "bad", "back", "gone"] = "waiting"
    switched_at: float = 0.0
    asked_at: float = float("-inf")
    is_judged: bool = True  # False: it did not run with the old model, so nothing can be compared
    verdict: str = ""


class Rollout:
    """Moves pipelines from `old` to `new`. `canary`: the share that goes first, in (0, 1]."""

    def __init__(
        self,
        pipelines: Mapping[str, Seen],
        *,
        old: str,
        new: str,
        canary: float,
        max_unavailable: int,
        limits: Limits,
    ) -> None:
        self._old, self._new = old, new
        self._limits = limits
        self._max_unavailable = max_unavailable
        self._targets = {pipeline_id: _Target() for pipeline_id in _spread(pipelines)}
        self._canaries = math.ceil(len(self._targets) * canary)
        self._phase: Phase = "measuring"
        self._began_at: float | None = None
        self._reason = ""

    # facts

    @property
    def phase(self) -> Phase:
        """Where it is."""
        return self._phase

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self._phase in ("done", "returned")

    @property
    def reason(self) -> str:
        """Why it returns; empty if it does not."""
        return self._reason

    def figures(self, pipeline_id: str) -> tuple[Figures, Figures]:
        """The figures of a pipeline with the old model, and with the new one."""
        target = self._targets[pipeline_id]
        return target.before.figures, target.after.figures

    def verdicts(self) -> dict[str, str]:
        """What became of each pipeline."""
        return {pipeline_id: each.verdict or each.stage for pipeline_id, each in self._targets.items()}

    # steps

    def step(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Take what is seen now, about once a second. Returns what to do, in order."""
        if self._began_at is None:
            self._began_at = now
        actions = self._look(seen, now)
        if self._phase == "measuring" and self._is_measured(seen, now - self._began_at):
            self._phase = "canary"
            actions.append(Note(None, f"{self._canaries} of {len(self._targets)} pipelines go first"))
        if self._phase in ("canary", "waves"):
            actions += self._judge(seen, now)
        if self._phase == "canary" and self._all_done(self._first()):
            self._phase = "waves"
        if self._phase == "waves" and self._all_done(self._targets):
            self._phase = "done"
        if self._phase in ("canary", "waves"):
            actions += self._forward(seen, now)
        elif self._phase == "returning":
            actions += self._return(seen, now)
        return actions

    def _look(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Record what pipelines do, and leave out those that others took away or changed."""
        notes: list[Action] = []
        for pipeline_id, target in self._targets.items():
            if target.stage == "gone":
                continue
            now_seen = seen.get(pipeline_id)
            if now_seen is None or now_seen.model not in (self._old, self._new):
                target.stage = "gone"
                target.verdict = "it was removed" if now_seen is None else f"it was given {now_seen.model}"
                notes.append(Note(pipeline_id, f"left out: {target.verdict} meanwhile"))
            elif target.stage == "waiting" and now_seen.model == self._old:
                target.before.record(now_seen, now)
            elif target.stage in ("switched", "good") and now_seen.model == self._new:
                target.after.record(now_seen, now)
        return notes

    def _is_measured(self, seen: Mapping[str, Seen], passed: float) -> bool:
        """Whether there is enough data of each pipeline that runs. One that flaps holds up nothing."""
        observe = self._limits.observe
        return passed >= 3 * observe + SETTLING or all(
            target.before.figures.seconds >= observe
            for pipeline_id, target in self._targets.items()
            if target.stage != "gone" and seen[pipeline_id].status == "running"
        )

    def _judge(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        actions: list[Action] = []
        for pipeline_id, target in self._targets.items():
            if target.stage not in ("switched", "good") or seen[pipeline_id].model != self._new:
                continue
            judgement = self._judgement(target, seen[pipeline_id], now)
            if judgement.verdict == "bad":
                target.stage, target.verdict = "bad", judgement.reason
                self._phase, self._reason = "returning", f"{pipeline_id}: {judgement.reason}"
                actions.append(Note(pipeline_id, f"bad: {judgement.reason}"))
            elif judgement.verdict == "good" and target.stage == "switched":
                target.stage, target.verdict = "good", judgement.reason
                actions.append(Note(pipeline_id, f"good: {judgement.reason}"))
        return actions

    def _judgement(self, target: _Target, seen: Seen, now: float) -> Judgement:
        if not target.is_judged:
            return Judgement("good", f"not compared: it was not running, and is {seen.status}")
        before, after = target.before.figures, target.after.figures
        switched_for = now - target.switched_at
        if target.stage == "good" and seen.status not in ("running", "failed", "backoff"):
            return Judgement("unknown")  # its device may be lost, which is no fault of the model
        found = judge(before, after, seen, switched_for=switched_for, limits=self._limits)
        return found if found.verdict == "bad" else Judgement(found.verdict, summary(before, after))

    def _forward(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Switch as many of the next pipelines as may be unavailable."""
        waiting = self._first() if self._phase == "canary" else list(self._targets)
        room = self._max_unavailable - self._unavailable(seen)
        actions = self._ask_again(seen, now, ("switched",), self._new)
        for pipeline_id in waiting:
            target = self._targets[pipeline_id]
            if target.stage != "waiting":
                continue
            is_up = seen[pipeline_id].status in _UP
            if is_up and room <= 0:
                break
            # One that is down already takes no further room.
            room -= is_up
            target.is_judged = target.before.figures.frames > 0 and seen[pipeline_id].status == "running"
            target.stage, target.switched_at, target.asked_at = "switched", now, now
            actions.append(Switch(pipeline_id, self._new))
        return actions

    def _return(self, seen: Mapping[str, Seen], now: float) -> list[Action]:
        """Take the old model again: at once where the new one is not proven, else without more outage."""
        actions = self._ask_again(seen, now, ("back",), self._old)
        for pipeline_id, target in self._targets.items():
            if target.stage in ("bad", "switched"):
                target.stage, target.asked_at = "back", now
                actions.append(Switch(pipeline_id, self._old))
        room = self._max_unavailable - self._unavailable(seen)
        for pipeline_id, target in self._targets.items():
            if target.stage == "good" and room > 0:
                room -= 1
                target.stage, target.asked_at = "back", now
                actions.append(Switch(pipeline_id, self._old))
        back = [pipeline_id for pipeline_id, target in self._targets.items() if target.stage == "back"]
        if not any(target.stage == "good" for target in self._targets.values()) and all(
            seen[pipeline_id].model == self._old for pipeline_id in back
        ):
            self._phase = "returned"
        return actions

    def _ask_again(
        self, seen: Mapping[str, Seen], now: float, stages: tuple[str, ...], model: str
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

    def _first(self) -> list[str]:
        return list(self._targets)[: self._canaries]

    def _all_done(self, chosen: Mapping[str, object] | list[str]) -> bool:
        return all(self._targets[pipeline_id].stage in ("good", "gone") for pipeline_id in chosen)


def _spread(pipelines: Mapping[str, Seen]) -> list[str]:
    """The pipelines, those of different devices first, so that canaries try many devices."""
    by_device: dict[str, list[str]] = {}
    for pipeline_id in sorted(pipelines):
        by_device.setdefault(pipelines[pipeline_id].device or "", []).append(pipeline_id)
    turns = ((number, device) for device, each in by_device.items() for number in range(len(each)))
    return [by_device[device][number] for number, device in sorted(turns)]
