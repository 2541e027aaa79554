"""Transformers: RT-DETR, D-FINE and their relatives, in the four forms that their exporters write.

    rtdetr        (1, queries, 4 + classes): center and size from 0 to 1, a score for each class; Ultralytics
    rtdetr-topk   (1, queries, 6): center and size from 0 to 1, score, class; Ultralytics since 8.4
    detr          logits (1, queries, classes), pred_boxes (1, queries, 4): center and size from 0 to 1;
                  Hugging Face Transformers
    detr-deploy   labels (1, queries), boxes (1, queries, 4), scores (1, queries): corners in pixels of the
                  size in the input `orig_target_sizes`; the repositories of RT-DETR, D-FINE and DEIM

The picture is stretched to the input. A query may have found several classes.

Reference: `RTDETRPredictor` of `ultralytics`, `post_process_object_detection` of `transformers`, and
`RTDETRPostProcessor` of the repository lyuwenyu/RT-DETR.
"""

from __future__ import annotations

import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapter import (
    ROUNDING,
    BadOutput,
    Candidates,
    Floats,
    InputFormat,
    Integers,
    Outputs,
    Shapes,
    are_labels,
    check_scores,
    columns,
    corners,
    expect_shape,
    wrong_classes,
)

_USUAL = 2.0  # half of the numbers of boxes are below it, if they are parts of the input


class RtDetr:
    """One output with boxes and scores."""

    has_nms = True

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat(fit="stretched")

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        first, width = shapes[0], 4 + len(manifest.labels)
        fits = len(first) == 3 and first[0] == 1 and first[2] == width
        expect_shape(fits, f"(1, N, {width})", first, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        check_scores(outputs[0][0, :, 4:])
        check_parts(outputs[0][0, :, :4])

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        rows = outputs[0][0]
        best = rows[:, 4:].max(axis=1)
        chosen = np.flatnonzero(best >= confidence)
        return Candidates(
            boxes=in_pixels(rows[chosen], manifest),
            scores=best[chosen],
            classes=rows[chosen, 4:].argmax(axis=1),
        )

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """The sorted scores: queries may change places."""
        return [np.sort(outputs[0][0, :, 4:], axis=None)]


class RtDetrTopK:
    """One output with boxes, their scores and classes."""

    has_nms = True

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat(fit="stretched")

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        first = shapes[0]
        expect_shape(len(first) == 3 and first[::2] == (1, 6), "(1, N, 6)", first, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        rows, labels = outputs[0][0], len(manifest.labels)
        check_scores(rows[:, 4])
        check_parts(rows[:, :4])
        invalid = wrong_classes(rows, manifest)
        if invalid.size:
            raise BadOutput(
                f"expected class numbers from 0 to {labels - 1} in the last of six columns, got "
                f"{invalid[0]:.4g}: if they are scores of two classes, add it with --family rtdetr"
            )

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        rows = outputs[0][0]
        chosen = rows[rows[:, 4] >= confidence]
        chosen = chosen[are_labels(chosen[:, 5], manifest)]
        return Candidates(
            boxes=in_pixels(chosen, manifest),
            scores=chosen[:, 4],
            classes=np.rint(chosen[:, 5]).astype(np.int64),
        )

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """The sorted scores: queries may change places."""
        return [np.sort(outputs[0][0, :, 4])]


class Detr:
    """Logits and boxes."""

    has_nms = True

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat(fit="stretched", smooth=True)

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        logits, boxes = shapes
        classes = len(manifest.labels)
        expect_shape(len(logits) == 3 and logits[::2] == (1, classes), f"(1, N, {classes})", logits, manifest)
        expect_shape(boxes == (1, logits[1], 4), f"(1, {logits[1]}, 4)", boxes, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        if not np.isfinite(outputs[0]).all():
            raise BadOutput("expected finite logits, got others")
        check_parts(outputs[1][0])

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        queries, classes, scores = confident_queries(outputs[0][0], confidence)
        return Candidates(boxes=in_pixels(outputs[1][0][queries], manifest), scores=scores, classes=classes)

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """The sorted logits: queries may change places."""
        return [np.sort(outputs[0], axis=None)]


class DetrDeploy:
    """Classes, corners and scores."""

    has_nms = True

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat(fit="stretched", smooth=True)

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        labels, boxes, scores = shapes
        expect_shape(len(boxes) == 3 and boxes[::2] == (1, 4), "(1, N, 4)", boxes, manifest)
        for shape in (labels, scores):
            expect_shape(shape == boxes[:2], f"(1, {boxes[1]})", shape, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        check_scores(outputs[2])
        classes = outputs[0][outputs[2] > ROUNDING]
        invalid = classes[(classes < 0) | (classes >= len(manifest.labels))]
        if invalid.size:
            raise BadOutput(
                f"expected class numbers from 0 to {len(manifest.labels) - 1}, got {invalid[0]:.4g}: "
                "pass as many class names with --labels"
            )

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        classes, boxes, scores = (output[0] for output in outputs)
        chosen = (scores >= confidence) & are_labels(classes, manifest)
        return Candidates(
            boxes=columns(boxes[chosen]),
            scores=scores[chosen],
            classes=np.rint(classes[chosen]).astype(np.int64),
        )

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """The sorted scores: queries may change places."""
        return [np.sort(outputs[2], axis=None)]


def confident_queries(logits: Floats, confidence: float) -> tuple[Integers, Integers, Floats]:
    """The queries, classes and scores of logits (queries, classes), at most as many as there are queries."""
    with np.errstate(over="ignore"):
        scores = 1 / (1 + np.exp(-logits))
    chosen = np.flatnonzero(scores >= confidence)
    if len(chosen) > len(logits):
        best = np.argsort(-scores.ravel()[chosen], kind="stable")[: len(logits)]
        chosen = chosen[best]
    queries, classes = np.divmod(chosen, logits.shape[1])
    return queries, classes, scores[queries, classes]


def in_pixels(rows: Floats, manifest: Manifest) -> Floats:
    """Boxes (4, n) in pixels of the input, of rows of center and size from 0 to 1."""
    size = np.array([[manifest.input_width], [manifest.input_height]], np.float32)
    boxes = columns(rows)
    return corners(boxes[:2] * size, boxes[2:] * size)


def check_parts(boxes: Floats) -> None:
    """Check that boxes are parts of the input, from 0 to 1. Raises: BadOutput.

    A few may lie far outside: some models do not bound boxes, and queries without an object have any.
    """
    with np.errstate(over="ignore"):
        usual = np.median(np.abs(boxes)) if boxes.size else 0.0
    if not usual <= _USUAL:  # also false for NaN
        raise BadOutput(f"expected boxes as parts of the picture, from 0 to 1, got mostly {usual:.4g}")
