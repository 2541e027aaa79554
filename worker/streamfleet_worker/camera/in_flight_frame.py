"""A frame on its way from a slot of the engine to the sinks."""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_worker.camera.stages.nested_findings import NestedFindings
from streamfleet_worker.video.detection.findings import Findings
from streamfleet_worker.video.detection.letterbox import Geometry
from streamfleet_worker.video.frame import Picture, Stamp


@dataclass(slots=True, kw_only=True)
class InFlightFrame:
    """A frame in a slot of the engine."""

    stamp: Stamp
    geometry: Geometry
    slot: int
    began_at: float  # monotonic seconds: when it was decoded, plus the time it waited for its pace
    held: float  # total seconds of pauses, when this was submitted
    submitted_at: float  # monotonic seconds
    ready_at: float | None = None  # monotonic seconds of the engine's answer
    failure: str = ""  # why inference failed
    picture: Picture | None = None  # if a stage, a preview, a sample or the shadow may need it
    skipped: float = 0.0  # seconds for which its source stood still before it, in total
    shown: bool = False  # it gets a preview
    shadowed: bool = False  # the shadow infers it, too
    # Of a pipeline with stages, once its output was read; of a shadowed frame, once it was emitted.
    findings: Findings | None = None
    nested: NestedFindings | None = None  # what the stages find, once they have begun
