"""Small real video files, written for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2

from streamfleet_worker.video.synthetic.test_pattern import draw


def write_pattern(path: Path, frames: int, *, width: int = 480, height: int = 270, fps: float = 30.0) -> Path:
    """The test pattern as an MJPEG file, so that every frame can be decoded by itself."""
    return write_drawn(path, range(1, frames + 1), width=width, height=height, fps=fps)


def write_drawn(
    path: Path, frame_ids: Iterable[int], *, width: int = 480, height: int = 270, fps: float = 30.0
) -> Path:
    """These frames of the test pattern, as an MJPEG file."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for frame_id in frame_ids:
        writer.write(cv2.resize(draw(frame_id), (width, height), interpolation=cv2.INTER_AREA))
    writer.release()
    return path
