"""Judges a pipeline with a new model by what it did with the old one. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from streamfleet_core.protocol.tasks.rollouts import RolloutLimits
from streamfleet_core.protocol.tasks.trials import ShadowCounts, ShadowStat
from streamfleet_core.rollout.figures import Figures, Seen

MIN_OBJECTS = 10  # found with the old model: of fewer, their absence tells nothing
MIN_SHADOWED = 5  # frames that both models must have inferred
_SLACK = 0.05  # seconds of latency that are no fault, however fast the old model was


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of one pipeline with its new model."""

    verdict: Literal["unknown", "good", "bad"]
    reason: str = ""


UNKNOWN = Judgement("unknown")


def judge(
    before: Figures,
    after: Figures,
    seen: Seen,
    *,
    restarts: int,
    switched_for: float,
    limits: RolloutLimits,
) -> Judgement:
    """Judge a pipeline.

    `restarts`: of its process, before it was told of the new model; `switched_for`: seconds since then.
    """
    if seen.trouble:
        return Judgement("bad", f"it cannot be used: {seen.trouble}")
    if seen.status == "failed":
        return Judgement("bad", f"it has failed: {seen.reason or 'no reason was given'}")
    if seen.restarts > restarts or seen.status == "backoff":
        return Judgement("bad", f"it crashed: {seen.reason or 'its process was started again'}")
    if seen.uses_new and seen.crashes:
        return Judgement("bad", f"it crashed: {seen.reason or 'its engine was started again'}")
    if after.seconds < limits.observe:
        if switched_for > limits.start + limits.observe * 2:
            text = f"it is {seen.status} after {switched_for:.0f} s"
            return Judgement("bad", f"{text}: {seen.reason}" if seen.reason else text)
        return UNKNOWN
    fault = next(_faults(before, after, limits), None)
    return Judgement("good", summary(before, after)) if fault is None else Judgement("bad", fault)


def judge_alone(seen: Seen, model: str) -> Judgement | None:
    """Judge a pipeline that did not run before, by what only its new model is to blame for; None: nothing."""
    if seen.trouble:
        return Judgement("bad", f"it cannot be used: {seen.trouble}")
    if seen.uses_new and seen.crashes:
        return Judgement("bad", f"it crashed: {seen.reason or 'its engine was started again'}")
    if seen.status == "failed" and seen.reason.startswith(f"model {model}: "):
        return Judgement("bad", f"it has failed: {seen.reason}")
    return None


def judge_shadow(shadow: ShadowStat | None, *, running_for: float, limits: RolloutLimits) -> Judgement:
    """Judge a model that infers frames beside the old one. `running_for`: seconds since the first frame."""
    if shadow is None:
        return UNKNOWN
    if shadow.state == "failed":
        return Judgement("bad", f"it cannot be used: {shadow.reason}")
    if shadow.crashes:
        return Judgement("bad", f"it crashed: {shadow.reason or 'its engine was started again'}")
    counts = shadow.counts
    if running_for < limits.shadow or counts.frames + counts.failed < MIN_SHADOWED:
        return UNKNOWN
    fault = next(_shadow_faults(counts, limits), None)
    if fault is not None:
        return Judgement("bad", f"beside the old model, {fault}")
    return Judgement("good", f"as a shadow: {shadow_summary(counts)}")


def summary(before: Figures, after: Figures) -> str:
    """The figures of both models in a line."""
    return (
        f"{after.objects_per_frame:.2f} objects a frame (before {before.objects_per_frame:.2f}), "
        f"{_milliseconds(after.latency)} (before {_milliseconds(before.latency)}), "
        f"{after.fps:.1f} frames/s (before {before.fps:.1f})"
    )


def shadow_summary(counts: ShadowCounts) -> str:
    """What both models found in the same frames, in a line."""
    return (
        f"{counts.frames} frames, it finds {counts.paired} of {counts.own_boxes} objects of the old model, "
        f"{counts.blind} blind, {_milliseconds(counts.latency)} an inference "
        f"(old {_milliseconds(counts.own_latency)})"
    )


def _shadow_faults(counts: ShadowCounts, limits: RolloutLimits) -> Iterator[str]:
    if counts.failed > counts.frames:
        yield f"{counts.failed} of {counts.failed + counts.frames} inferences failed"
    elif counts.own_boxes >= MIN_OBJECTS:
        found, known = counts.boxes / counts.frames, counts.own_boxes / counts.frames
        if found < known * limits.min_objects:
            yield f"it finds {found:.2f} objects a frame, the old one {known:.2f}"
        elif counts.paired < counts.own_boxes * limits.min_agreement:
            yield f"it finds {counts.paired} of {counts.own_boxes} objects of the old one"
    if _is_slower(counts.own_latency, counts.latency, limits):
        yield (
            f"an inference takes {_milliseconds(counts.latency)}, "
            f"of the old one {_milliseconds(counts.own_latency)}"
        )


def _faults(before: Figures, after: Figures, limits: RolloutLimits) -> Iterator[str]:
    if before.frames and not after.frames:
        yield "it emits nothing"
    elif (
        before.objects >= MIN_OBJECTS
        and after.objects_per_frame < before.objects_per_frame * limits.min_objects
    ):
        yield f"it finds {after.objects_per_frame:.2f} objects a frame, before {before.objects_per_frame:.2f}"
    if _is_slower(before.latency, after.latency, limits):
        yield (
            f"it takes {_milliseconds(after.latency)} from capture to prediction, "
            f"before {_milliseconds(before.latency)}"
        )
    if after.frames and after.fps < before.fps * limits.min_fps:
        yield f"it gives {after.fps:.1f} frames/s, before {before.fps:.1f}"


def _is_slower(before: float | None, after: float | None, limits: RolloutLimits) -> bool:
    return before is not None and after is not None and after > before * limits.max_latency + _SLACK


def _milliseconds(seconds: float | None) -> str:
    return "no latency" if seconds is None else f"{seconds * 1000:.0f} ms"
