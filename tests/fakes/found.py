"""What a model of each task finds in a picture of 64x48 pixels, in Roboflow's JSON."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT = 64, 48

BOX: dict[str, Any] = {
    "x": 20.0,
    "y": 10.0,
    "width": 8.0,
    "height": 4.0,
    "confidence": 0.75,
    "class": "nut",
    "class_id": 1,
}


def points(*places: tuple[float, float]) -> list[dict[str, float]]:
    """Points as a prediction has them."""
    return [{"x": x, "y": y} for x, y in places]


def keypoint(number: int, x: float, y: float, confidence: float = 0.9) -> dict[str, Any]:
    """A key point as a prediction has it."""
    return {"x": x, "y": y, "confidence": confidence, "class_id": number, "class": f"point {number}"}


# The mask of both: the columns 16 to 23 of the rows 8 to 11.
OUTLINED = {
    **BOX,
    "points": points((16, 8), (23, 8), (23, 11), (16, 11)),
    "mask_format": "polygon",
}
RUN_LENGTHS = {
    **BOX,
    "rle": {"size": [HEIGHT, WIDTH], "counts": "Xh04\\10000000000000hk1"},
    "mask_format": "rle",
}
ORIENTED = {**BOX, "points": points((16, 10), (20, 8), (24, 10), (20, 12)), "rotation": 27.0}
KEYPOINTS = {**BOX, "keypoints": [keypoint(0, 18.0, 9.0), keypoint(1, 22.0, 11.0, 0.25)]}
CLASSIFIED: dict[str, Any] = {
    "predictions": [
        {"class": "cat", "class_id": 2, "confidence": 0.75},
        {"class": "dog", "class_id": 0, "confidence": 0.25},
    ],
    "top": "cat",
    "confidence": 0.75,
}


def document(*objects: dict[str, Any]) -> dict[str, Any]:
    """What was found in the picture."""
    return {"image": {"width": WIDTH, "height": HEIGHT}, "predictions": list(objects)}
