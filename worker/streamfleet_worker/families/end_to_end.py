"""Models with NMS, or without need of it: YOLOv10, 26, and exports of Ultralytics with `nms=True`.

    (1, boxes, 6 + further): corners, score and class of each box in pixels of the input; then the angle of an
    oriented box, its key points, or the coefficients of the prototypes in the second output

The first four numbers of an oriented box are its center and its size.

Reference: the predictors of the package `ultralytics`, which take the rows as they are.
"""

from __future__ import annotations

import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapter import (
    BadOutput,
    Candidates,
    Floats,
    InputFormat,
    Outputs,
    Shapes,
    are_labels,
    candidates,
    check_scores,
    columns,
    corners,
    expect_shape,
    further_count,
    wrong_classes,
)


class EndToEnd:
    """Boxes as rows."""

    has_nms = True

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat()

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        first = shapes[0]
        widths = [6 + count for count in further_count(manifest, shapes)]
        fits = len(first) == 3 and first[0] == 1 and first[2] in widths
        expect_shape(fits, f"(1, N, {widths[-1]})", first, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        rows, labels = outputs[0][0], len(manifest.labels)
        check_scores(rows[:, 4])
        invalid = wrong_classes(rows, manifest)
        if invalid.size:
            raise BadOutput(
                f"expected class numbers from 0 to {labels - 1} in the last of six columns (x1, y1, x2, y2, "
                f"score, class), got {invalid[0]:.4g}"
            )

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        rows = outputs[0][0]
        chosen = rows[rows[:, 4] >= confidence]
        chosen = chosen[are_labels(chosen[:, 5], manifest)]
        boxes = columns(chosen)
        if manifest.task == "obb":
            boxes = corners(boxes[:2], boxes[2:])
        classes = np.rint(chosen[:, 5]).astype(np.int64)
        return candidates(boxes, chosen[:, 4], classes, chosen[:, 6:], manifest)

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """The sorted scores: rows with equal scores may change places."""
        return [np.sort(outputs[0][0, :, 4])]
