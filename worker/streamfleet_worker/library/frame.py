"""The frame that the library passes to the user's functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from streamfleet_worker.video.frame import Image


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One picture of a source. The receiver owns the image: no other frame is decoded into it."""

    image: Image  # (height, width, 3) uint8, BGR
    frame_id: int  # counts from 1 since the source was opened; gaps mean dropped frames
    frame_timestamp: datetime  # local time without a zone, when it was decoded
    source_id: int | None = None  # index in the list of sources
    fps: float | None = None  # as declared by the source
    measured_fps: float | None = None  # over the last frames
    comes_from_video_file: bool | None = None
