"""What an adapter of a family does, and the values that it takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import le
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from streamfleet_core.protocol.values import Manifest

ROUNDING = 0.01  # tolerance of scores below 0 and above 1

Floats = npt.NDArray[np.floating[Any]]
FloatArray = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Outputs = Sequence[FloatArray]  # of one frame, each with a first dimension of 1
Shapes = Sequence[tuple[int, ...]]  # of the outputs

# Where a picture lies in the input: centered or top left with grey beside it, stretched to all of it, or
# its middle part, whose shorter side fits.
Fit = Literal["centered", "top-left", "stretched", "cropped"]
# The numbers for pixels from 0 to 255: from 0 to 1, as they are, or less the mean of ImageNet's pictures and
# in units of their deviation.
Scale = Literal["0-1", "0-255", "imagenet"]


class BadOutput(Exception):
    """Outputs that are not those of the family. The text says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFormat:
    """What a family expects in its input."""

    fit: Fit = "centered"
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: Scale = "0-1"
    smooth: bool = False  # whether pictures are scaled as PIL does, see `Picture.scaled`


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The boxes of one frame whose scores are high enough, in any order, in pixels of the input.

    NumPy is slow with short rows, so boxes are columns.
    """

    boxes: Floats  # (4, n): x1 y1 x2 y2
    scores: Floats  # (n,)
    classes: Integers  # (n,)
    rotated: Floats | None = None  # (5, n): center x, y, width, height, angle in radians, clockwise
    keypoints: Floats | None = None  # (n, points, 3): x, y, confidence
    coefficients: Floats | None = None  # (n, prototypes): of the prototypes of masks
    masks: Floats | None = None  # (n, height, width): the logits of masks of the whole input

    def take(self, which: npt.NDArray[Any] | slice) -> Candidates:
        """Some of them, by index or by a mask, in that order."""
        further = {
            name: values[which]
            for name in ("keypoints", "coefficients", "masks")
            if (values := getattr(self, name)) is not None
        }
        return replace(
            self,
            boxes=self.boxes[:, which],
            scores=self.scores[which],
            classes=self.classes[which],
            rotated=None if self.rotated is None else self.rotated[:, which],
            **further,
        )


class Adapter(Protocol):
    """Reads the models of one family."""

    has_nms: bool  # whether the model has chosen among overlapping boxes already

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        ...

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        ...

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture, whose shapes are right. Raises: BadOutput."""
        ...

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        ...

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """What two runs on the same picture have in common, apart from rounding."""
        ...


def check_scores(scores: Floats) -> None:
    """Check that numbers are scores. Raises: BadOutput."""
    lowest, highest = scores.min(initial=0.0), scores.max(initial=0.0)
    if not (lowest >= -ROUNDING and highest <= 1 + ROUNDING):  # also false for NaN
        raise BadOutput(
            f"expected scores from 0 to 1, got {lowest:.4g} to {highest:.4g}: export it with the "
            "sigmoid in it, and without quantizing its output"
        )


def are_labels(classes: Floats, manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Which numbers, once rounded, are those of a label. False for NaN."""
    labels: npt.NDArray[np.bool_] = (classes > -0.5) & (classes < len(manifest.labels) - 0.5)
    return labels


def wrong_classes(rows: Floats, manifest: Manifest) -> Floats:
    """The classes of rows (box, score, class, …) that are no numbers of labels, where the score counts."""
    classes = rows[rows[:, 4] > ROUNDING, 5]
    wrong: Floats = classes[(classes != np.rint(classes)) | (classes < 0) | (classes >= len(manifest.labels))]
    return wrong


def expect_shape(fits: bool, expected: str, shape: tuple[int, ...], manifest: Manifest) -> None:
    """Check the shape of an output. Raises: BadOutput."""
    if not fits:
        got = ", ".join(str(size) for size in shape)
        raise BadOutput(
            f"expected an output of {expected} for the family {manifest.family} and {len(manifest.labels)} "
            f"labels, got ({got})"
        )


def columns(rows: Floats) -> Floats:
    """The first four numbers of each row, as (4, n)."""
    return np.ascontiguousarray(rows[:, :4].T)


def corners(centers: Floats, sizes: Floats) -> Floats:
    """Boxes (4, n) of centers (2, n) and sizes (2, n)."""
    half = sizes / 2
    return np.concatenate([centers - half, centers + half])


def enclosing(rotated: Floats) -> Floats:
    """The boxes (4, n) around rotated boxes (5, n)."""
    width, height, angle = rotated[2], rotated[3], rotated[4]
    cos, sin = np.abs(np.cos(angle)), np.abs(np.sin(angle))
    sizes = np.stack([width * cos + height * sin, width * sin + height * cos])
    return corners(rotated[:2], sizes)


def keypoints_of(values: Floats, manifest: Manifest) -> Floats:
    """Key points (n, points, 3) of rows (n, points * 2 or 3); without a confidence of their own it is 1."""
    count = len(manifest.keypoints)
    points = values.reshape(len(values), count, values.shape[1] // count)  # also of no boxes
    if points.shape[2] == 2:
        points = np.concatenate([points, np.ones_like(points[:, :, :1])], axis=2)
    return points


def further_count(manifest: Manifest, shapes: Shapes) -> tuple[int, ...]:
    """How many numbers a box may have beside its place, scores and class, by the task. Raises: BadOutput."""
    if manifest.task == "obb":
        return (1,)
    if manifest.task == "pose":
        return 2 * len(manifest.keypoints), 3 * len(manifest.keypoints)
    if manifest.task == "segment":
        return (_prototypes(shapes, manifest),)
    return (0,)


def are_masks(shape: tuple[int, ...], manifest: Manifest) -> bool:
    """Whether an output has grids of at least one number, and of no more than the input has pixels.

    Each object takes the time to read its part of a grid.
    """
    most = (manifest.input_height, manifest.input_width)
    return len(shape) == 4 and 0 not in shape[2:] and all(map(le, shape[2:], most))


def _prototypes(shapes: Shapes, manifest: Manifest) -> int:
    """How many prototypes of masks there are in the second output. Raises: BadOutput."""
    shape = shapes[1] if len(shapes) > 1 else ()
    if not are_masks(shape, manifest) or shape[1] == 0:
        got = ", ".join(str(size) for size in shape)
        raise BadOutput(
            f"expected prototypes of masks (1, count, height, width) that are at most as large as the input, "
            f"{manifest.input_width} x {manifest.input_height}, got ({got})"
        )
    return shape[1]


def candidates(
    boxes: Floats,
    scores: Floats,
    classes: Integers,
    further: Floats,
    manifest: Manifest,
) -> Candidates:
    """Candidates with the further numbers (n, count) of their task.

    Of oriented boxes, `boxes` are those without rotation, and the further number is the angle.
    """
    found = Candidates(boxes=boxes, scores=scores, classes=classes)
    if manifest.task == "segment":
        return replace(found, coefficients=further)
    if manifest.task == "pose":
        return replace(found, keypoints=keypoints_of(further, manifest))
    if manifest.task == "obb":
        low, high = boxes[:2], boxes[2:]
        rotated = np.concatenate([(low + high) / 2, high - low, further.T])
        return replace(found, boxes=enclosing(rotated), rotated=rotated)
    return found
