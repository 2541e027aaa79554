"""YOLOv5, as its own repository exports it, and models with the same output, as YOLOv7.

    (1, boxes, 5 + classes + further): center, size, objectness, a score for each class, in pixels of the
    input; then the coefficients of the prototypes of masks in the second output

Reference: `non_max_suppression` of the repository ultralytics/yolov5.
"""

from __future__ import annotations

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapter import (
    BadOutput,
    Candidates,
    Floats,
    InputFormat,
    Outputs,
    Shapes,
    candidates,
    check_scores,
    columns,
    corners,
    expect_shape,
    further_count,
)
from streamfleet_worker.families.objectness import confident_rows, covers_input
from streamfleet_worker.families.yolox import grid_points


class YoloV5:
    """Boxes as rows with an objectness."""

    has_nms = False

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat()

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        first = shapes[0]
        widths = [5 + len(manifest.labels) + count for count in further_count(manifest, shapes)]
        fits = len(first) == 3 and first[0] == 1 and first[2] in widths
        expect_shape(fits, f"(1, N, {widths[-1]})", first, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        rows = outputs[0][0]
        check_scores(rows[:, 4 : 5 + len(manifest.labels)])
        if len(rows) == grid_points(manifest) and rows.any() and not covers_input(rows, manifest):
            raise BadOutput("expected boxes in pixels, got offsets from grids: add it with --family yolox")

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        found = confident_rows(outputs[0][0], len(manifest.labels), confidence)
        boxes = columns(found.rows)
        further = found.rows[:, 5 + len(manifest.labels) :]
        return candidates(corners(boxes[:2], boxes[2:]), found.scores, found.classes, further, manifest)

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """What two runs on the same picture have in common."""
        return list(outputs)
