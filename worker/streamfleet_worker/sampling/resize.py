"""Scales a picture down to a limit, and its prediction with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2

from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.outputs.rle import mask_of, rle_of


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
    if (image["width"], image["height"]) == (width, height):
        return prediction
    scale = _Scale(across=width / image["width"], down=height / image["height"], width=width, height=height)
    return {**scale.document(prediction), "image": {"width": width, "height": height}}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Converts pixels of a frame to those of a smaller picture of it."""

    across: float  # pixels of the picture for one of the frame
    down: float
    width: int  # pixels of the picture
    height: int

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "predictions": [self._object(each) for each in document["predictions"]]}

    def _object(self, given: dict[str, Any]) -> dict[str, Any]:
        """Scale an object. The classes of a picture have no place, and stay as they are."""
        scaled = self._point(given)
        if "width" in given:
            scaled.update(width=given["width"] * self.across, height=given["height"] * self.down)
        for key in ("points", "keypoints"):
            if key in given:
                scaled[key] = [self._point(point) for point in given[key]]
        if "rle" in given:
            scaled["rle"] = self._run_lengths(given["rle"])
        if "stages" in given:
            scaled["stages"] = {name: self.document(stage) for name, stage in given["stages"].items()}
        return scaled

    def _point(self, given: dict[str, Any]) -> dict[str, Any]:
        if "x" not in given:
            return dict(given)
        return {**given, "x": given["x"] * self.across, "y": given["y"] * self.down}

    def _run_lengths(self, rle: dict[str, Any]) -> dict[str, Any]:
        height, width = rle["size"]
        mask = mask_of(rle["counts"], width=width, height=height).resized(self.across, self.down)
        counts = rle_of(mask, width=self.width, height=self.height)
        return {"size": [self.height, self.width], "counts": counts}


def jpeg_of(image: Image, quality: int) -> bytes:
    """Encode a picture as a JPEG; quality from 1 to 100."""
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()
