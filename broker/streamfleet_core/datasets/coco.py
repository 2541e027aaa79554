"""Converts samples to COCO one by one, so that a large data set is never in memory. Pure.

    <folder>/annotations.json
    <folder>/images/<name>.jpg

The same samples in the same order give the same ids. COCO has no place for the classes of a whole picture:
they are `labels` of its image, which has no annotations then. Neither has it one for what stages find: their
objects are annotations with the `parent_id` of the object that they were found in, of categories like
`text/A`, and their classes are `attributes` of it, as CVAT writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from streamfleet_core.datasets.coco_shapes import keypoints_of, segmentation_of, skeleton_of
from streamfleet_core.datasets.picked_sample import Box, Sample

ANNOTATIONS = "annotations.json"
IMAGES = "images"
# Of all objects of a sample, each with as many as its category has: beyond that, objects have none. A device
# may send ten thousand objects, each with the last key point only.
_MOST_KEYPOINTS = 2**18


class Coco:
    """Numbers images, annotations and categories from 1, in the order in which they are added."""

    def __init__(self) -> None:
        self._categories: dict[str, int] = {}  # by name
        self._stages: dict[str, str] = {}  # of categories of stages, by name
        self._keypoints: dict[int, dict[int, str]] = {}  # names by index, by category
        self._images = 0
        self._annotations = 0
        self._left = 0  # key points that the sample may still have

    def add(self, sample: Sample) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Add a sample, and return its image and annotations."""
        for label in sample.labels:
            self._category(label)
        self._images += 1
        self._left = _MOST_KEYPOINTS
        return self._image(sample), [
            each for box in sample.boxes for each in self._annotations_of(sample, box)
        ]

    def categories(self) -> list[dict[str, Any]]:
        """The categories of all samples so far: the first model's classes in their order, then others'."""
        return [
            {
                "id": number,
                "name": name,
                "supercategory": self._stages.get(name, ""),
                **self._skeleton(number),
            }
            for name, number in self._categories.items()
        ]

    def _skeleton(self, category: int) -> dict[str, Any]:
        names = self._keypoints.get(category)
        return {} if names is None else skeleton_of(names)

    def _category(self, name: str, stage: str = "") -> int:
        if stage:
            name = f"{stage}/{name}"
            self._stages[name] = stage
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
            **self._labels(sample),
        }

    def _labels(self, sample: Sample) -> dict[str, Any]:
        if not sample.classes:
            return {}
        return {
            "labels": [
                {
                    "category_id": self._category(each.class_name),
                    "name": each.class_name,
                    "score": round(each.confidence, 4),
                }
                for each in sample.classes
            ]
        }

    def _annotations_of(self, sample: Sample, box: Box) -> Iterator[dict[str, Any]]:
        """An object, and what stages have found in it."""
        annotation = self._annotation(sample, box)
        if attributes := box.attributes:
            annotation["attributes"] = attributes
        yield annotation
        for stage, found in box.nested.items():
            for each in found:
                yield {**self._annotation(sample, each, stage), "parent_id": annotation["id"]}

    def _annotation(self, sample: Sample, box: Box, stage: str = "") -> dict[str, Any]:
        self._annotations += 1
        category = self._category(box.class_name, stage)
        left, right = _within(box.x - box.width / 2, box.x + box.width / 2, sample.width)
        top, bottom = _within(box.y - box.height / 2, box.y + box.height / 2, sample.height)
        width, height = round(right - left, 2), round(bottom - top, 2)
        shape = segmentation_of(box, width=sample.width, height=sample.height)
        return {
            "id": self._annotations,
            "image_id": self._images,
            "category_id": category,
            "bbox": [round(left, 2), round(top, 2), width, height],
            "area": round(width * height, 2) if shape.area is None else shape.area,
            "iscrowd": 0,
            "segmentation": shape.value,
            "score": round(box.confidence, 4),  # of the model that made the prediction, as in COCO's results
            **self._keypoints_of(sample, box, category),
        }

    def _keypoints_of(self, sample: Sample, box: Box, category: int) -> dict[str, Any]:
        if not box.keypoints:
            return {}
        names = self._keypoints.setdefault(category, {})
        for point in box.keypoints:
            names.setdefault(point.class_id, point.class_name)
        count = max(names) + 1
        self._left -= count
        if self._left < 0:
            return {}
        return keypoints_of(box.keypoints, count=count, width=sample.width, height=sample.height)


def file_name(sample: Sample) -> str:
    """The file name of the image, in the folder of the images."""
    return f"{sample.name}.jpg"


def _within(low: float, high: float, end: float) -> tuple[float, float]:
    """Clip a range to [0, end]."""
    return min(max(low, 0.0), end), min(max(high, 0.0), end)
