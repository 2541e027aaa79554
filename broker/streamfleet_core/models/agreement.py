"""How far two models agree on the same frames: boxes are paired, then counted. Pure.

The first model is the reference. Boxes are paired greedily, the surest of the reference first, by the overlap
of their areas (IoU): first with boxes of the same class, then what is left with boxes of any class. It runs
no model and reads no picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIN_IOU = 0.5  # of a pair, the usual limit of detection benchmarks
MAX_BOXES = 1000  # of one frame and model, the surest ones: the work grows with the square


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One object that a model found: corners in pixels, the class by its name, confidence 0 to 1.

    Raises: ValueError, if a number is not finite.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: str
    confidence: float

    def __post_init__(self) -> None:
        numbers = (self.left, self.top, self.right, self.bottom, self.confidence)
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"expected finite corners and a finite confidence, got {numbers}")

    @property
    def area(self) -> float:
        """In square pixels; 0 if a corner is on the wrong side."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same object, as each model found it."""

    first: Box
    second: Box
    iou: float  # 0 to 1

    @property
    def same_class(self) -> bool:
        """Do both models give it the same class?"""
        return self.first.label == self.second.label

    @property
    def shift(self) -> float:
        """How much surer the second model is, -1 to 1."""
        return self.second.confidence - self.first.confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAgreement:
    """What two models found on one frame."""

    pairs: tuple[Pair, ...] = ()
    only_first: tuple[Box, ...] = ()
    only_second: tuple[Box, ...] = ()

    @property
    def other_class(self) -> tuple[Pair, ...]:
        """The pairs to which the models give different classes."""
        return tuple(pair for pair in self.pairs if not pair.same_class)

    @property
    def blind(self) -> bool:
        """Does the second model find nothing where the first one finds something?"""
        return bool(self.only_first) and not self.pairs and not self.only_second

    @property
    def disagreement(self) -> float:
        """How much the models differ here: 0 if they do not. It orders frames and has no unit.

        A box that only one model has counts by its confidence: one close to the threshold weighs less.
        """
        alone = sum(box.confidence for box in (*self.only_first, *self.only_second))
        confused = sum(max(pair.first.confidence, pair.second.confidence) for pair in self.other_class)
        shifted = sum(abs(pair.shift) for pair in self.pairs if pair.same_class)
        return alone + confused + shifted


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What two models found on many frames. A share of nothing is None: nothing was compared."""

    frames: int
    first_boxes: int
    second_boxes: int
    matched: int  # pairs
    same_class: int  # pairs with the same class
    blind_frames: int  # where the second model finds nothing and the first one something
    mean_shift: (
        float | None
    )  # of the confidence in pairs with the same class; below 0: the second is less sure
    mean_iou: float | None  # of all pairs

    @property
    def matched_share(self) -> float | None:
        """The share of the first model's boxes that the second one has, of any class."""
        return _share(self.matched, self.first_boxes)

    @property
    def confirmed_share(self) -> float | None:
        """The share of the second model's boxes that the first one has, of any class."""
        return _share(self.matched, self.second_boxes)

    @property
    def class_agreement(self) -> float | None:
        """The share of the pairs to which both models give the same class."""
        return _share(self.same_class, self.matched)

    @property
    def f1(self) -> float | None:
        """One figure for all: the share of both models' boxes that are in a pair of the same class."""
        return _share(2 * self.same_class, self.first_boxes + self.second_boxes)


def compare(first: Sequence[Box], second: Sequence[Box], *, min_iou: float = MIN_IOU) -> FrameAgreement:
    """Pair what two models found on one frame. Of more than MAX_BOXES the surest are compared."""
    left, right = _surest(first), _surest(second)
    pairs: list[Pair] = []
    for any_class in (False, True):
        unpaired = []
        for box in left:
            pair = _best(box, right, any_class=any_class, min_iou=min_iou)
            if pair is None:
                unpaired.append(box)
            else:
                pairs.append(pair)
                right = [each for each in right if each is not pair.second]
        left = unpaired
    return FrameAgreement(pairs=tuple(pairs), only_first=tuple(left), only_second=tuple(right))


def summarize(frames: Iterable[FrameAgreement]) -> Agreement:
    """Count what `compare` found on each frame."""
    frames = list(frames)
    pairs = [pair for frame in frames for pair in frame.pairs]
    shifts = [pair.shift for pair in pairs if pair.same_class]
    return Agreement(
        frames=len(frames),
        first_boxes=len(pairs) + sum(len(frame.only_first) for frame in frames),
        second_boxes=len(pairs) + sum(len(frame.only_second) for frame in frames),
        matched=len(pairs),
        same_class=len(shifts),
        blind_frames=sum(frame.blind for frame in frames),
        mean_shift=_mean(shifts),
        mean_iou=_mean([pair.iou for pair in pairs]),
    )


def overlap(first: Box, second: Box) -> float:
    """The area that both boxes cover, as a share of the area that at least one covers (IoU), 0 to 1."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    share = both / (first.area + second.area - both)
    return share if math.isfinite(share) else 0.0  # numbers of a hostile model overflow


def _best(box: Box, others: Sequence[Box], *, any_class: bool, min_iou: float) -> Pair | None:
    """The pair of this box with the one of the others that overlaps it most."""
    found = None
    for other in others:
        if any_class or other.label == box.label:
            iou = overlap(box, other)
            if iou >= min_iou and (found is None or iou > found.iou):
                found = Pair(first=box, second=other, iou=iou)
    return found


def _surest(boxes: Sequence[Box]) -> list[Box]:
    return sorted(boxes, key=lambda box: -box.confidence)[:MAX_BOXES]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(numbers: Sequence[float]) -> float | None:
    return math.fsum(numbers) / len(numbers) if numbers else None
