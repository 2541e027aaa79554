"""Compares what Streamfleet finds with a model file with what the model's own code has found.

It is asked twice: what it reads from the outputs that the reference had, where only rounding may differ, and
what the whole way from the picture gives, where some references resize pictures in another way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import supervision as sv

from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.protocol.values import Family, Manifest
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.library.inference import InferenceContext
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS, Findings, data_of
from streamfleet_worker.video.detection.letterbox import fit
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.detection.postprocess import findings_of
from tests.references.case import CONFIDENCE, MOST, OVERLAP, Case

RULES = PostProcessing(
    confidence=CONFIDENCE, iou_threshold=OVERLAP, max_candidates=30_000, max_detections=MOST
)
ALIKE = 0.99  # the least overlap of the same box
_SAME_SCORE = 0.002  # scores that may be those of the same object
_NEAR = 0.25  # pixels between the sides or corners of the same box, if it is small
_ALIKE_MASKS = 0.95  # mean overlap: the reference enlarges in two steps, which shifts flat outlines
_SEEN = 64  # pixels of a mask that is large enough to be compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much both agree. Numbers are the largest ones; None: the task has no such thing."""

    family: Family
    task: str
    ours: int
    theirs: int
    matched: int
    pixels: float | None = None
    score: float
    mask: float | None = None  # the mean overlap of masks
    least: float | None = None  # the lowest one
    keypoints: float | None = None  # pixels
    input: float  # of 255 steps of a pixel
    whole: str  # detections the whole way from the picture, and how many of them are matched

    @property
    def agree(self) -> bool:
        """Whether everything was found by both, at the same place and in the same shape."""
        return self.ours == self.theirs == self.matched and (self.mask is None or self.mask >= _ALIKE_MASKS)


@dataclass(frozen=True, slots=True)
class _Found:
    """Detections of either side, as arrays."""

    boxes: np.ndarray  # (n, 4)
    scores: np.ndarray
    classes: np.ndarray
    corners: np.ndarray | None = None
    keypoints: np.ndarray | None = None  # (n, points, 3)
    masks: np.ndarray | None = None

    def take(self, which: np.ndarray) -> _Found:
        further = [
            None if each is None else each[which] for each in (self.corners, self.keypoints, self.masks)
        ]
        return _Found(self.boxes[which], self.scores[which], self.classes[which], *further)


def compare(path: Path, case: Case) -> Difference:
    """Compare for one model. Raises: BadModel, if it is not recognized or cannot be run."""
    manifest = _manifest(path, case)
    height, width = case.picture.shape[:2]
    geometry = fit(width, height, manifest)
    # The class says which session it is: the same outputs go through the same code as those of an engine.
    read = findings_of(_as_engine(case.outputs), geometry, manifest=manifest, rules=RULES)
    context = InferenceContext(Session(str(path), manifest), manifest)
    whole = context.find(ArrayPicture(case.picture), RULES)
    numbers = np.empty(context.slot.input.shape, np.float32)
    normalize(context.slot.input, input_format_of(manifest).scale, numbers)
    steps = 1 if input_format_of(manifest).scale == "0-255" else 255
    shown = float(np.abs(numbers - case.input.astype(np.float32)).mean()) * steps
    if isinstance(read, sv.Classifications):
        return _classification(manifest, case, read, whole, shown)
    theirs = _theirs(case)
    ours, everything = _ours(read, case), _ours(whole, case)
    pairs = _pairs(ours, theirs, _SAME_SCORE)
    difference = Difference(
        family=manifest.family,
        task=manifest.task,
        ours=len(ours.scores),
        theirs=len(theirs.scores),
        matched=len(pairs),
        score=_largest(ours.scores, theirs.scores, pairs),
        input=shown,
        whole=f"{len(everything.scores)}, {len(_pairs(everything, theirs, 1.0))}",
    )
    return _with_places(difference, ours, theirs, pairs)


def _manifest(path: Path, case: Case) -> Manifest:
    family: Family | None = next((each for each in get_args(Family) if each == case.family), None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return validate_model(path, digest, family=family, labels=case.labels or None)


def _as_engine(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [output.astype(np.float32) for output in outputs]


def _with_places(
    difference: Difference, ours: _Found, theirs: _Found, pairs: list[tuple[int, int]]
) -> Difference:
    if ours.corners is not None and theirs.corners is not None:
        return replace(difference, pixels=_largest(ours.corners, theirs.corners, pairs))
    difference = replace(difference, pixels=_largest(ours.boxes, theirs.boxes, pairs))
    if ours.keypoints is not None and theirs.keypoints is not None:
        return replace(difference, keypoints=_largest(ours.keypoints, theirs.keypoints, pairs))
    if ours.masks is not None and theirs.masks is not None:
        overlaps = [
            overlap_of_masks(ours.masks[one], theirs.masks[other])
            for one, other in pairs
            if theirs.masks[other].sum() >= _SEEN
        ]
        counts = [len(pairs) + _seen_alone(found, at, pairs) for at, found in enumerate((ours, theirs))]
        return replace(
            difference,
            ours=counts[0],
            theirs=counts[1],
            mask=float(np.mean(overlaps or 1.0)),
            least=min(overlaps, default=1.0),
        )
    return difference


def _seen_alone(found: _Found, side: int, pairs: list[tuple[int, int]]) -> int:
    """How many masks that are large enough have no match: of a few pixels, rounding may leave none."""
    assert found.masks is not None
    alone = np.delete(np.arange(len(found.scores)), [pair[side] for pair in pairs])
    return int((found.masks[alone].sum(axis=(1, 2)) >= _SEEN).sum())


def _classification(
    manifest: Manifest, case: Case, read: sv.Classifications, whole: Findings, shown: float
) -> Difference:
    """The classes that are confident enough, and in any case the best one."""
    assert isinstance(whole, sv.Classifications)
    order = np.argsort(-case.scores, kind="stable")
    expected = order[: max(1, int((case.scores > CONFIDENCE).sum()))]
    same = [one for one, other in zip(read.class_id, expected, strict=False) if one == other]
    assert read.confidence is not None
    return Difference(
        family=manifest.family,
        task=manifest.task,
        ours=len(read.class_id),
        theirs=len(expected),
        matched=len(same),
        score=float(np.abs(read.confidence - case.scores[read.class_id]).max()),
        input=shown,
        whole=f"{len(whole.class_id)}, {len(set(whole.class_id.tolist()) & set(expected.tolist()))}",
    )


def _ours(found: Findings, case: Case) -> _Found:
    assert isinstance(found, sv.Detections)
    assert found.confidence is not None
    assert found.class_id is not None
    masks = data_of(found, MASKS)
    ours = _Found(
        found.xyxy.astype(np.float64),
        found.confidence,
        found.class_id,
        data_of(found, CORNERS),
        data_of(found, KEYPOINTS),
        None if masks is None else np.array([_whole(mask, case.picture.shape[:2]) for mask in masks]),
    )
    # The references leave out what has an empty mask; we keep its box.
    if ours.masks is None or not len(ours.masks):
        return ours
    return ours.take(np.flatnonzero(ours.masks.any(axis=(1, 2))))


def _theirs(case: Case) -> _Found:
    """What the reference has found in the frame: it keeps what lies outside of it, too."""
    height, width = case.picture.shape[:2]
    boxes = np.clip(case.boxes.astype(np.float64), 0, [width, height] * 2)
    keypoints = case.keypoints
    if keypoints is not None and keypoints.shape[2] == 2:
        keypoints = np.concatenate([keypoints, np.ones_like(keypoints[..., :1])], axis=2)
    masks = case.masks
    if masks is not None:  # those of RF-DETR reach out of their boxes
        masks = np.array([_within(mask, box) for mask, box in zip(masks, boxes, strict=True)], bool).reshape(
            masks.shape
        )
    found = _Found(boxes, case.scores, case.classes, case.corners, keypoints, masks)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if masks is not None:
        inside &= masks.any(axis=(1, 2))
    return found.take(np.flatnonzero(inside))


def _within(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    left, top, right, bottom = np.ceil(box).astype(int)
    inside = np.zeros_like(mask)
    inside[top:bottom, left:right] = mask[top:bottom, left:right]
    return inside


def _whole(mask: BoxMask, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of the whole frame."""
    whole = np.zeros(shape, bool)
    part = whole[mask.top : mask.top + mask.bits.shape[0], mask.left : mask.left + mask.bits.shape[1]]
    part[:] = mask.bits[: part.shape[0], : part.shape[1]]
    return whole


def _pairs(ours: _Found, theirs: _Found, same_score: float) -> list[tuple[int, int]]:
    """The same objects of both: of one class, with equal scores, at the same place."""
    free, pairs = set(range(len(theirs.scores))), []
    for one in range(len(ours.scores)):
        rivals = [
            other
            for other in sorted(free)
            if theirs.classes[other] == ours.classes[one]
            and abs(theirs.scores[other] - ours.scores[one]) <= same_score
        ]
        likeness = {other: _likeness(ours, one, theirs, other) for other in rivals}
        best = max(likeness, key=likeness.__getitem__, default=None)
        if best is not None and likeness[best] >= ALIKE:
            free.remove(best)
            pairs.append((one, best))
    return pairs


def _likeness(ours: _Found, one: int, theirs: _Found, other: int) -> float:
    """From 0 to 1: the overlap of boxes; 1 if no side, or no corner of an oriented box, is far off."""
    if ours.corners is not None and theirs.corners is not None:
        return 1.0 if _furthest(ours.corners[one], theirs.corners[other]) <= _NEAR else 0.0
    first, second = ours.boxes[one], theirs.boxes[other]
    if _furthest(first, second) <= _NEAR:
        return 1.0
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - shared)


def _furthest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def _largest(ours: np.ndarray, theirs: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    """The largest difference of numbers of the same objects."""
    return max((float(np.abs(ours[one] - theirs[other]).max()) for one, other in pairs), default=0.0)


def overlap_of_masks(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))
