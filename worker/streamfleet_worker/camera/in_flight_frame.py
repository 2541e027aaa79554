"""A frame on its way from a slot of the engine to the sinks."""

from __future__ import annotations

from dataclasses import dataclass

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
    picture: Picture | None = None  # if a preview or a sample may need it
    shown: bool = False  # it gets a preview
