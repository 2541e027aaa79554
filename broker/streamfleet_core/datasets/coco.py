"""Converts samples to COCO one by one, so that a large data set is never in memory. Pure.

    <folder>/annotations.json
    <folder>/images/<name>.jpg

The same samples in the same order give the same ids.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from streamfleet_core.protocol.picked_sample import Box, Sample

ANNOTATIONS = "annotations.json"
IMAGES = "images"


class Coco:
    """Numbers images, annotations and categories from 1, in the order in which they are added."""

    def __init__(self) -> None:
        self._categories: dict[str, int] = {}  # by name
        self._images = 0
        self._annotations = 0

    def add(self, sample: Sample) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Add a sample, and return its image and annotations."""
        for label in sample.labels:
            self._category(label)
        self._images += 1
        return self._image(sample), [self._annotation(sample, box) for box in sample.boxes]

    def categories(self) -> list[dict[str, Any]]:
        """The categories of all samples so far: the first model's classes in their order, then others'."""
        return [
            {"id": number, "name": name, "supercategory": ""} for name, number in self._categories.items()
        ]

    def _category(self, name: str) -> int:
        return self._categories.setdefault(name, len(self._categories) + 1)

    def _image(self, sample: Sample) -> dict[str, Any]:
        return {
            "id": self._images,
            "file_name": file_name(sample),
            "width": sample.width,
            "height": sample.height,
            "date_captured": datetime.fromtimestamp(sample.captured_at, timezone.utc).isoformat(),
            # COCO does not define these.
            "pipeline_id": sample.pipeline_id,
            "device": sample.device,
            "source_id": sample.source_id,
            "frame_id": sample.frame_id,
            "strategy": sample.strategy,
            "tags": list(sample.tags),
            "batch": sample.batch,
        }

    def _annotation(self, sample: Sample, box: Box) -> dict[str, Any]:
        self._annotations += 1
        left, right = _within(box.x - box.width / 2, box.x + box.width / 2, sample.width)
        top, bottom = _within(box.y - box.height / 2, box.y + box.height / 2, sample.height)
        width, height = round(right - left, 2), round(bottom - top, 2)
        return {
            "id": self._annotations,
            "image_id": self._images,
            "category_id": self._category(box.class_name),
            "bbox": [round(left, 2), round(top, 2), width, height],
            "area": round(width * height, 2),
            "iscrowd": 0,
            "segmentation": [],
            "score": round(box.confidence, 4),  # of the model that made the prediction, as in COCO's results
        }


def file_name(sample: Sample) -> str:
    """The file name of the image, in the folder of the images."""
    return f"{sample.name}.jpg"


def _within(low: float, high: float, end: float) -> tuple[float, float]:
    """Clip a range to [0, end]."""
    return min(max(low, 0.0), end), min(max(high, 0.0), end)
