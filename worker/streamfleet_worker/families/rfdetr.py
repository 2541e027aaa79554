"""RF-DETR, as its package exports it.

    dets (1, queries, 4): center and size from 0 to 1
    labels (1, queries, classes): logits; of models of one's own with one more, for no object
    masks (1, queries, height, width), of models with masks: logits over the whole picture

The picture is stretched to the input, and its colours are those of ImageNet's training.

Reference: `PostProcess` of the package `rfdetr`.
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
    are_masks,
    expect_shape,
)
from streamfleet_worker.families.detr import check_parts, confident_queries, in_pixels


class RfDetr:
    """Boxes, logits, and masks of each query."""

    has_nms = True

    def input_format(self, manifest: Manifest) -> InputFormat:
        """What the input of the model must be."""
        return InputFormat(fit="stretched", scale="imagenet")

    def check_shapes(self, shapes: Shapes, manifest: Manifest) -> None:
        """Check the shapes of the outputs. Raises: BadOutput."""
        boxes, logits = shapes[:2]
        classes = len(manifest.labels)
        expect_shape(len(boxes) == 3 and boxes[::2] == (1, 4), "(1, N, 4)", boxes, manifest)
        fits = len(logits) == 3 and logits[:2] == (1, boxes[1]) and logits[2] in (classes, classes + 1)
        expect_shape(fits, f"(1, {boxes[1]}, {classes} or {classes + 1})", logits, manifest)
        for masks in shapes[2:]:
            fits = masks[:2] == (1, boxes[1]) and are_masks(masks, manifest)
            expect_shape(fits, f"(1, {boxes[1]}, height, width)", masks, manifest)

    def check_values(self, outputs: Outputs, manifest: Manifest) -> None:
        """Check the outputs for a noisy picture. Raises: BadOutput."""
        if not all(np.isfinite(output).all() for output in outputs):
            raise BadOutput("expected finite numbers, got others")
        check_parts(outputs[0][0])

    def read(self, outputs: Outputs, manifest: Manifest, confidence: float) -> Candidates:
        """Read the boxes with at least this confidence."""
        logits = outputs[1][0, :, : len(manifest.labels)]
        queries, classes, scores = confident_queries(logits, confidence)
        return Candidates(
            boxes=in_pixels(outputs[0][0][queries], manifest),
            scores=scores,
            classes=classes,
            masks=outputs[2][0][queries] if manifest.task == "segment" else None,
        )

    def comparable(self, outputs: Outputs) -> list[Floats]:
        """The sorted logits: queries may change places."""
        return [np.sort(outputs[1], axis=None)]
