"""Findings of each task, at odd places, the most confident not first; and the documents of them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import supervision as sv

from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.outputs.prediction import Names, Origin, describe

LABELS = ("car", "person")
WIDTH, HEIGHT = 1920, 1080  # pixels of the frame
ORIGIN = Origin(
    source_id=0,
    frame_id=12,
    decoded_at=1_760_000_000.25,
    emitted_at=1_760_000_000.5,
    pipeline_id="pipeline-1",
    device="device-1",
    generation=3,
    incarnation=2,
    seq=11,
)


def found(count: int, *, tracked: bool = False, size: float = 50, **data: Any) -> sv.Detections:
    """Boxes of at most this size in pixels."""
    chance = np.random.default_rng(count)
    corner = chance.uniform(0, 1000 - size, (count, 2))
    return sv.Detections(
        xyxy=np.hstack([corner, corner + chance.uniform(size / 10, size, (count, 2))]).astype(np.float32),
        confidence=chance.uniform(0.3, 1, count).astype(np.float32),
        class_id=chance.integers(0, 2, count),
        tracker_id=np.arange(count) + 100 if tracked else None,
        data=data,
    )


def segmented(count: int, *, size: float = 50, **options: Any) -> sv.Detections:
    """Objects with ragged round masks that fill their boxes."""
    boxes = found(count, size=size, **options)
    masks = []
    for index, box in enumerate(boxes.xyxy):
        left, top, right, bottom = box.astype(int).tolist()
        masks.append(blob(left, top, max(1, right - left), max(1, bottom - top), seed=index))
    boxes.data[MASKS] = column(*masks)
    return boxes


def column(*masks: BoxMask) -> np.ndarray:
    """Masks as detections have them."""
    objects = np.empty(len(masks), object)
    objects[:] = masks
    return objects


def blob(left: int, top: int, width: int, height: int, *, seed: int = 0) -> BoxMask:
    """A ragged disc."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.random.default_rng(seed).uniform(0.6, 1, len(angle))
    points = np.stack([width / 2 * (1 + radius * np.cos(angle)), height / 2 * (1 + radius * np.sin(angle))])
    bits = np.zeros((height, width), np.uint8)
    cv2.fillPoly(bits, [points.T.astype(np.int32)], (1,))
    return BoxMask(left, top, bits)


def posed(count: int, points: int = 17, **options: Any) -> sv.Detections:
    """Objects with key points in their boxes."""
    boxes = found(count, **options)
    chance = np.random.default_rng(points)
    share, low, high = (
        chance.uniform(0, 1, (count, points, 3)),
        boxes.xyxy[:, None, :2],
        boxes.xyxy[:, None, 2:],
    )
    share[:, :, :2] = low + share[:, :, :2] * (high - low)
    boxes.data[KEYPOINTS] = share.astype(np.float32)
    return boxes


def oriented(count: int, **options: Any) -> sv.Detections:
    """Boxes that stand on a corner within their boxes."""
    boxes = found(count, **options)
    left, top, right, bottom = boxes.xyxy.T
    x, y = (left + right) / 2, (top + bottom) / 2
    corners = [np.stack(point, axis=1) for point in ((right, y), (x, top), (left, y), (x, bottom))]
    boxes.data[CORNERS] = np.stack(corners, axis=1)
    return boxes


def classified(count: int) -> sv.Classifications:
    """The classes of a picture."""
    confidence = np.linspace(0.9, 0.1, count).astype(np.float32)
    return sv.Classifications(class_id=np.arange(count), confidence=confidence)


def document(findings: sv.Detections | sv.Classifications, **options: Any) -> dict[str, Any]:
    """The document of these findings in a frame of 1920 by 1080."""
    count = 20_000 if isinstance(findings, sv.Classifications) else 2
    names = Names((*LABELS, *(f"label {number}" for number in range(2, count))))
    return describe(findings, names=names, width=WIDTH, height=HEIGHT, origin=ORIGIN, **options)


def dense(mask: BoxMask, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The mask in the whole frame: (height, width) bool."""
    whole = np.zeros((height, width), np.bool_)
    rows, columns = mask.bits.shape
    whole[mask.top : mask.top + rows, mask.left : mask.left + columns] = mask.bits
    return whole
