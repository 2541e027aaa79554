"""Grey frames, and what a model could have found in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from streamfleet_worker.library.frame import VideoFrame

AT = datetime.fromisoformat("2026-11-20T08:22:43.893326")
GREY = 90


def frame(source_id: int = 0, frame_id: int = 1, size: tuple[int, int] = (320, 240)) -> VideoFrame:
    """A grey picture of this width and height."""
    image = np.full((size[1], size[0], 3), GREY, np.uint8)
    return VideoFrame(image=image, frame_id=frame_id, frame_timestamp=AT, source_id=source_id)


def box(x: float = 100.0, y: float = 60.0, **more: Any) -> dict[str, Any]:
    """One thing that was found, of 40 by 20 pixels."""
    found = {"x": x, "y": y, "width": 40.0, "height": 20.0, "confidence": 0.9, "class": "car", "class_id": 3}
    return {**found, "detection_id": "cdf8", **more}


def seen(*boxes: dict[str, Any], size: tuple[int, int] = (320, 240)) -> dict[str, Any]:
    """The predictions of a frame."""
    return {"image": {"width": size[0], "height": size[1]}, "predictions": list(boxes)}


def coloured(picture: np.ndarray) -> np.ndarray:
    """Which pixels are neither the grey of the frame nor black."""
    return (picture != GREY).any(axis=2) & (picture != 0).any(axis=2)
