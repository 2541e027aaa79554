"""The frame that the library passes to the user's functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Image, Picture


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One picture of a source. The receiver owns the image: no other frame is decoded into it."""

    image: (
        Image  # (height, width, 3) uint8, BGR; the picture of a source is converted when this is first read
    )
    frame_id: int  # counts from 1 since the source was opened; gaps mean dropped frames
    frame_timestamp: datetime  # local time without a zone, when it was decoded
    source_id: int | None = None  # index in the list of sources
    fps: float | None = None  # as declared by the source
    measured_fps: float | None = None  # over the last frames
    comes_from_video_file: bool | None = None
    _picture: Picture | None = field(default=None, init=False, repr=False, compare=False)

    if not TYPE_CHECKING:  # checkers would accept any attribute

        def __getattr__(self, name: str) -> Any:
            """The image, while it was not read. Python calls this for attributes that are not set."""
            if name != "image":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            picture = self._picture
            if picture is None:  # another thread has read it meanwhile
                return object.__getattribute__(self, "image")
            image = picture.bgr()
            object.__setattr__(self, "image", image)
            object.__setattr__(self, "_picture", None)
            return image


def picture_of(frame: VideoFrame) -> Picture:
    """The picture of a frame, which is not converted unless the user has read its image."""
    picture = frame._picture  # noqa: SLF001 (it is hidden from users only)
    return ArrayPicture(frame.image) if picture is None else picture


def frame_of_picture(
    picture: Picture,
    *,
    frame_id: int,
    frame_timestamp: datetime,
    source_id: int,
    fps: float | None,
    measured_fps: float | None,
    comes_from_video_file: bool,
) -> VideoFrame:
    """A frame whose image is converted when it is first read."""
    frame = VideoFrame(
        np.empty((0, 0, 3), np.uint8),
        frame_id,
        frame_timestamp,
        source_id,
        fps,
        measured_fps,
        comes_from_video_file,
    )
    object.__setattr__(frame, "_picture", picture)
    object.__delattr__(frame, "image")
    return frame
