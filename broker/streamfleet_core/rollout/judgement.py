"""Judges a pipeline with a new model by what it did with the old one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamfleet_core.rollout.figures import Figures, Seen

MIN_OBJECTS = 10  # found with the old model: of fewer, their absence tells nothing
_SLACK = 0.05  # seconds of latency that are no fault, however fast the old model was


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a new model must keep to."""

    observe: float = 30.0  # seconds of data of each pipeline, with either model
    start: float = 120.0  # seconds until a pipeline runs with the new model
    min_objects: float = 0.5  # objects a frame, of those that the old model found
    max_latency: float = 2.0  # times that of the old model
    min_fps: float = 0.7  # frames/s, of those with the old model


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of one pipeline with its new model."""

    verdict: Literal["unknown", "good", "bad"]
    reason: str = ""


UNKNOWN = Judgement("unknown")


def judge(before: Figures, after: Figures, seen: Seen, *, switched_for: float, limits: Limits) -> Judgement:
    """Judge a pipeline. `switched_for`: seconds since it was told of the new model."""
    if seen.status == "failed":
        return Judgement("bad", f"it has failed: {seen.reason or 'no reason was given'}")
    if seen.restarts > 0 or seen.status == "backoff":
        return Judgement("bad", f"it crashed: {seen.reason or 'its process was started again'}")
    if after.seconds < limits.observe:
        if switched_for > limits.start + limits.observe * 2:
            text = f"it is {seen.status} after {switched_for:.0f} s"
            return Judgement("bad", f"{text}: {seen.reason}" if seen.reason else text)
        return UNKNOWN
    faults = list(_faults(before, after, limits))
    return Judgement("bad", faults[0]) if faults else Judgement("good", summary(before, after))


def summary(before: Figures, after: Figures) -> str:
    """The figures of both models in a line."""
    return (
        f"{after.objects_per_frame:.2f} objects a frame (before {before.objects_per_frame:.2f}), "
        f"{_milliseconds(after.latency)} (before {_milliseconds(before.latency)}), "
        f"{after.fps:.1f} frames/s (before {before.fps:.1f})"
    )


def _faults(before: Figures, after: Figures, limits: Limits) -> list[str]:
    faults = []
    if before.frames and not after.frames:
        faults.append("it emits nothing")
    elif (
        before.objects >= MIN_OBJECTS
        and after.objects_per_frame < before.objects_per_frame * limits.min_objects
    ):
        faults.append(
            f"it finds {after.objects_per_frame:.2f} objects a frame, before {before.objects_per_frame:.2f}"
        )
    if (
        before.latency is not None
        and after.latency is not None
        and after.latency > before.latency * limits.max_latency + _SLACK
    ):
        faults.append(
            f"it takes {_milliseconds(after.latency)} from capture to prediction, "
            f"before {_milliseconds(before.latency)}"
        )
    if after.frames and after.fps < before.fps * limits.min_fps:
        faults.append(f"it gives {after.fps:.1f} frames/s, before {before.fps:.1f}")
    return faults


def _milliseconds(seconds: float | None) -> str:
    return "no latency" if seconds is None else f"{seconds * 1000:.0f} ms"
