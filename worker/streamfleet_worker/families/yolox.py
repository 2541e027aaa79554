"""YOLOX.

    (1, points, 5 + classes): offset from a grid point, logarithm of the size, objectness, a score for each
    class; the points of three grids of 8, 16 and 32 pixels

With `decode_in_inference`, centers and sizes are in pixels of the input instead (yolox-decoded).

Reference: `demo_postprocess` of the repository Megvii-BaseDetection/YOLOX, and its `preproc` for the input.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapter import (
    BadOutput,
    Candidates,
    FloatArray,
    Floats,
    InputFormat,
    Outputs,
    Shapes,
    check_scores,
    columns,
    corners,
    expect_shape,
)
from streamfleet_worker.families.objectness import confident_rows, covers_input

_STRIDES = (8, 16, 32)  # pixels of the input per grid point


class YoloX:
    """Boxes as rows with an objectness, one for each grid point."""

    has_nms = False

    def __init__(self, *, decoded: bool) -> None:
        """`decoded`: boxes are in pixels."""
        self._decoded = decoded

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat(fit="top-left", channels="BGR", scale="0-255")

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        expected = (1, grid_points(manifest), 5 + len(manifest.labels))
        expect_shape(shapes[0] == expected, str(expected), shapes[0], manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        rows = outputs[0][0]
        check_scores(rows[:, 4:])
        if not rows.any():
            return
        decoded = covers_input(rows, manifest)
        if decoded and not self._decoded:
            raise BadOutput(
                "expected boxes as offsets from grids, got pixels (decode_in_inference): "
                "add it with --family yolox-decoded"
            )
        if not decoded and self._decoded:
            raise BadOutput("expected boxes in pixels, got offsets from grids: add it with --family yolox")

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        found = confident_rows(outputs[0][0], len(manifest.labels), confidence)
        boxes = columns(found.rows)
        if self._decoded:
            return Candidates(boxes=corners(boxes[:2], boxes[2:]), scores=found.scores, classes=found.classes)
        grid, strides = _grid(manifest.input_width, manifest.input_height)
        stride = strides[found.indices]
        centers = (boxes[:2] + grid[:, found.indices]) * stride
        with np.errstate(over="ignore"):  # an infinite box is dropped later
            sizes = np.exp(boxes[2:]) * stride
        return Candidates(boxes=corners(centers, sizes), scores=found.scores, classes=found.classes)

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """What two runs on the same picture have in common."""
        return list(outputs)


def grid_points(manifest: Manifest) -> int:
    """The number of grid points in the input."""
    return sum((manifest.input_height // stride) * (manifest.input_width // stride) for stride in _STRIDES)


@lru_cache(maxsize=4)
def _grid(width: int, height: int) -> tuple[FloatArray, FloatArray]:
    """The grid points: (2, n) columns and rows, and (n,) pixels from one to the next."""
    points, strides = [], []
    for stride in _STRIDES:
        rows, columns_ = np.mgrid[: height // stride, : width // stride]
        points.append(np.stack([columns_, rows]).reshape(2, -1))
        strides.append(np.full(rows.size, stride))
    return np.concatenate(points, axis=1).astype(np.float32), np.concatenate(strides).astype(np.float32)
