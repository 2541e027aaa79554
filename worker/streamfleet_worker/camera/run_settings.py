"""The part of an assignment that can change during a run. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_core.protocol.values import (
    DesiredStatus,
    Manifest,
    MaskFormat,
    Motion,
    PipelineSpec,
    Priority,
    Region,
    SourceSpec,
    Tracker,
)
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.package_tracker import package_problem
from streamfleet_worker.video.detection.postprocess import post_processing
from streamfleet_worker.video.detection.selection import Selection, selection_of, selection_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What is in effect now."""

    generation: int
    manifest: Manifest  # of the model that finds what is emitted
    desired_status: DesiredStatus
    rules: PostProcessing
    limits: tuple[float | None, ...]  # frames/s, by source
    sources: tuple[SourceSpec, ...]
    selections: tuple[Selection, ...]  # by source
    gates: tuple[tuple[Motion | None, Region | None], ...]  # by source
    tracker: Tracker | None
    priority: Priority
    mask_format: MaskFormat
    problem: str = ""  # of what the sources keep or the tracker, for users

    @property
    def paused(self) -> bool:
        """Whether nothing is emitted."""
        return self.desired_status == "pause"


def settings_of(
    generation: int,
    desired_status: DesiredStatus,
    spec: PipelineSpec,
    *,
    defaults: PostProcessing,
    manifest: Manifest,
) -> RunSettings:
    """The settings of a spec. `defaults`: of the device, for what the spec leaves open."""
    without = package_problem(spec.tracker)
    problems = (selection_problem(source, manifest.labels) for source in spec.sources)
    return RunSettings(
        generation=generation,
        manifest=manifest,
        desired_status=desired_status,
        rules=post_processing(spec, defaults),
        limits=tuple(source.max_fps or spec.max_fps for source in spec.sources),
        sources=spec.sources,
        selections=tuple(selection_of(source, manifest.labels) for source in spec.sources),
        gates=tuple((source.motion, source.region) for source in spec.sources),
        tracker=spec.tracker if not without else None,
        priority=spec.priority,
        mask_format=spec.mask_format,
        problem=next(filter(None, (*problems, without)), ""),
    )
