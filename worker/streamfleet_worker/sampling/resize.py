"""Scales a picture down to a limit, and its prediction with it."""

from __future__ import annotations

from typing import Any

import cv2

from streamfleet_worker.video.frame import Image


def fitted(image: Image, most: tuple[int, int] | None) -> Image:
    """Scale a picture down to at most (height, width), with its aspect ratio. It is never enlarged."""
    if most is None:
        return image
    height, width = image.shape[:2]
    scale = min(1.0, most[0] / height, most[1] / width)
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return smaller


def scaled(prediction: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """Scale Roboflow's document of a frame to this size in pixels."""
    image = prediction["image"]
    across, down = width / image["width"], height / image["height"]
    boxes = [
        {
            **box,
            "x": box["x"] * across,
            "y": box["y"] * down,
            "width": box["width"] * across,
            "height": box["height"] * down,
        }
        for box in prediction["predictions"]
    ]
    return {**prediction, "image": {"width": width, "height": height}, "predictions": boxes}


def jpeg_of(image: Image, quality: int) -> bytes:
    """Encode a picture as a JPEG; quality from 1 to 100."""
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()
