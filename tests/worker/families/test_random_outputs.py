"""Whatever numbers a model gives, what is found lies in the frame, is finite, and is no more than allowed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.values import Family, Manifest, Task, Weights
from streamfleet_worker.families.adapter import BadOutput
from streamfleet_worker.families.adapters import adapter_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS, Findings, data_of
from streamfleet_worker.video.detection.letterbox import fit
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.detection.postprocess import findings_of
from tests.fakes.detections_columns import class_ids, scores

TASKS: dict[Family, tuple[Task, ...]] = {
    "ultralytics": ("detect", "segment", "pose", "obb", "classify"),
    "end2end": ("detect", "segment", "pose", "obb"),
    "yolov5": ("detect", "segment"),
    "yolox": ("detect",),
    "yolox-decoded": ("detect",),
    "rtdetr": ("detect",),
    "rtdetr-topk": ("detect",),
    "detr": ("detect",),
    "detr-deploy": ("detect",),
    "rfdetr": ("detect", "segment"),
}
KINDS = [(family, task) for family, tasks in TASKS.items() for task in tasks]
ROUNDS = 530  # of each of them: ten thousand in all
FRAMES = [(64, 64), (200, 100), (37, 91), (1920, 1080), (1, 1), (3, 5000)]
FURTHER = {"pose": 3 * 3, "obb": 1, "segment": 4}  # three key points, an angle, four prototypes


def test_every_kind_is_asked() -> None:
    assert set(TASKS) == set(get_args(Family))
    assert len(KINDS) * ROUNDS >= 10_000


@pytest.mark.parametrize(("family", "task"), KINDS)
def test_any_numbers_give_detections_in_the_frame(family: Family, task: Task) -> None:
    chance = np.random.default_rng(KINDS.index((family, task)))
    for _ in range(ROUNDS):
        manifest = some_manifest(family, task, chance)
        frame = FRAMES[chance.integers(len(FRAMES))]
        rules = PostProcessing(
            confidence=float(chance.choice([0.0, 0.01, 0.25, 0.9, 1.0])),
            iou_threshold=float(chance.choice([0.0, 0.45, 1.0])),
            class_agnostic_nms=bool(chance.integers(2)),
            max_candidates=int(chance.choice([1, 20, 3000])),
            max_detections=int(chance.choice([1, 5, 300])),
        )
        outputs = some_outputs(manifest, chance)
        adapter_of(manifest).check_shapes([output.shape for output in outputs], manifest)

        found = findings_of(outputs, fit(*frame, manifest), manifest=manifest, rules=rules)

        check(found, manifest, rules, frame)


@pytest.mark.parametrize(("family", "task"), KINDS)
def test_the_check_of_a_new_model_refuses_numbers_and_does_not_fail(family: Family, task: Task) -> None:
    chance = np.random.default_rng(KINDS.index((family, task)))
    for _ in range(100):
        manifest = some_manifest(family, task, chance)
        outputs = some_outputs(manifest, chance)

        with contextlib.suppress(BadOutput):
            adapter_of(manifest).check_values(outputs, manifest)
            adapter_of(manifest).comparable(outputs)


def check(found: Findings, manifest: Manifest, rules: PostProcessing, frame: tuple[int, int]) -> None:
    """Check what must hold of any result."""
    assert len(found.class_id if isinstance(found, sv.Classifications) else found) <= rules.max_detections
    if isinstance(found, sv.Classifications):
        kinds, sure = np.asarray(found.class_id, np.int64), np.asarray(found.confidence, np.float32)
        assert len(kinds) >= 1
        assert ((kinds >= 0) & (kinds < len(manifest.labels))).all()
        assert ((sure >= 0) & (sure <= 1)).all()
        return
    boxes, kinds, sure = found.xyxy, class_ids(found), scores(found)
    assert is_inside(boxes.reshape(-1, 2), frame)
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert ((kinds >= 0) & (kinds < len(manifest.labels))).all()
    assert ((sure >= rules.confidence) & (sure <= 1)).all()
    assert (np.diff(sure) <= 0).all()
    if manifest.task == "obb":
        corners = column(found, CORNERS)
        assert corners.shape == (len(found), 4, 2)
        assert np.isfinite(corners).all()
    if manifest.task == "pose":
        points = column(found, KEYPOINTS)
        assert points.shape == (len(found), len(manifest.keypoints), 3)
        assert is_inside(points[..., :2].reshape(-1, 2), frame)
        assert ((points[..., 2] >= 0) & (points[..., 2] <= 1)).all()
    if manifest.task == "segment":
        for mask in column(found, MASKS):
            check_mask(mask, frame)


def column(found: sv.Detections, name: str) -> np.ndarray:
    """What the task has added to the detections."""
    values = data_of(found, name)
    assert values is not None
    return values


def check_mask(mask: BoxMask, frame: tuple[int, int]) -> None:
    height, width = mask.bits.shape
    assert mask.left >= 0
    assert mask.top >= 0
    assert mask.left + width <= frame[0]
    assert mask.top + height <= frame[1]
    assert set(np.unique(mask.bits)) <= {0, 1}


def is_inside(points: np.ndarray, frame: tuple[int, int]) -> bool:
    """Whether points are finite and in the frame."""
    return bool(np.isfinite(points).all() and (points >= 0).all() and (points <= frame).all())


# random ---------------------------------------------------------------------------------------------------


def some_manifest(family: Family, task: Task, chance: np.random.Generator) -> Manifest:
    """A model with a small input, and one class or more."""
    width, height = ((32, 32), (64, 32), (32, 96))[chance.integers(3)]
    classes = int(chance.choice([1, 2, 5, 80]))
    return Manifest(
        family=family,
        task=task,
        labels=tuple(f"class {number}" for number in range(classes)),
        input_width=width,
        input_height=height,
        weights=Weights("0" * 64, 1),
        keypoints=("a", "b", "c") if task == "pose" else (),
    )


def some_outputs(manifest: Manifest, chance: np.random.Generator) -> list[np.ndarray]:
    """Outputs with the shapes of a family, and any numbers."""
    fill = FILLS[chance.integers(len(FILLS))]
    return [fill(chance, shape) for shape in shapes_of(manifest, chance)]


def shapes_of(manifest: Manifest, chance: np.random.Generator) -> list[tuple[int, ...]]:
    """Shapes that a family may have."""
    classes, rows = len(manifest.labels), int(chance.choice([0, 1, 7, 40]))
    further = FURTHER.get(manifest.task, 0)
    masks = tuple(int(side) for side in chance.choice([1, 4, 9], 2))
    prototypes = [(1, further, *masks)] if manifest.task == "segment" else []
    if manifest.task == "classify":
        return [(1, classes)]
    if manifest.family.startswith("yolox"):
        points = sum((manifest.input_height // s) * (manifest.input_width // s) for s in (8, 16, 32))
        return [(1, points, 5 + classes)]
    if manifest.family == "rfdetr":
        own = [(1, rows, *masks)] if manifest.task == "segment" else []
        return [(1, rows, 4), (1, rows, classes + int(chance.integers(2))), *own]
    shapes: dict[Family, list[tuple[int, ...]]] = {
        "ultralytics": [(1, 4 + classes + further, rows), *prototypes],
        "end2end": [(1, rows, 6 + further), *prototypes],
        "yolov5": [(1, rows, 5 + classes + further), *prototypes],
        "rtdetr": [(1, rows, 4 + classes)],
        "rtdetr-topk": [(1, rows, 6)],
        "detr": [(1, rows, classes), (1, rows, 4)],
        "detr-deploy": [(1, rows), (1, rows, 4), (1, rows)],
    }
    return shapes[manifest.family]


Fill = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def parts(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers from 0 to 1, as scores and parts of the picture are."""
    return chance.uniform(0, 1, shape).astype(np.float32)


def pixels(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Scores among pixels: half of the numbers are larger than 1."""
    values = parts(chance, shape)
    return np.where(chance.uniform(size=shape) < 0.5, values * 90, values).astype(np.float32)


def logits(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers around 0, of any scale."""
    return (chance.normal(0, 1, shape) * 10.0 ** chance.integers(-3, 6)).astype(np.float32)


def extremes(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The largest and smallest numbers, infinities and none, in one of many places or in all."""
    odd = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 1e19, -0.0, 1.0], np.float32)
    values = pixels(chance, shape)
    where = chance.uniform(size=shape) < chance.choice([0.02, 0.3, 1.0])
    return np.where(where, chance.choice(odd, shape), values).astype(np.float32)


def same(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One number everywhere."""
    return np.full(shape, chance.choice([0.0, 1.0, 0.5, -1.0, 640.0, np.nan, np.inf]), np.float32)


FILLS: list[Fill] = [parts, pixels, logits, extremes, same]
