"""YOLOv8, v9, 11, 12 and those of 26 without its end-to-end head, as Ultralytics exports them.

    (1, 4 + classes + further, boxes): center, size, a score for each class, in pixels of the input; then the
    angle of an oriented box, its key points, or the coefficients of the prototypes in the second output

Models that classify have one output (1, classes) of scores: for the middle of the picture, or for all of it
if their input is not a square.

Reference: the predictors and `non_max_suppression` of the package `ultralytics`.
"""

from __future__ import annotations

import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapter import (
    Candidates,
    Floats,
    InputFormat,
    Outputs,
    Shapes,
    candidates,
    check_scores,
    corners,
    expect_shape,
    further_count,
)


class Ultralytics:
    """Boxes as columns."""

    has_nms = False

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        if manifest.task != "classify":
            return InputFormat(fit="centered")
        is_square = manifest.input_width == manifest.input_height
        return InputFormat(fit="cropped" if is_square else "stretched", smooth=True)

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        first, classes = shapes[0], len(manifest.labels)
        if manifest.task == "classify":
            expect_shape(first == (1, classes), f"(1, {classes})", first, manifest)
            return
        rows = [4 + classes + count for count in further_count(manifest, shapes)]
        fits = len(first) == 3 and first[0] == 1 and first[1] in rows
        expect_shape(fits, f"(1, {rows[-1]}, N)", first, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        if manifest.task == "classify":
            check_scores(outputs[0])
        else:
            check_scores(outputs[0][0, 4 : 4 + len(manifest.labels)])

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        output, end = outputs[0][0], 4 + len(manifest.labels)
        best = output[4:end].max(axis=0)
        chosen = np.flatnonzero(best >= confidence)
        columns = output[:, chosen]
        return candidates(
            corners(columns[:2], columns[2:4]),
            best[chosen],
            columns[4:end].argmax(axis=0),
            columns[end:].T,
            manifest,
        )

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """What two runs on the same picture have in common."""
        return list(outputs)
