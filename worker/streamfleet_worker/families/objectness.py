"""Rows with an objectness, as YOLOv5 and YOLOX have them: box, objectness, a score for each class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.families.adapter import Floats, Integers


class Confident(NamedTuple):
    """The rows whose score is high enough."""

    indices: Integers
    rows: Floats
    scores: Floats
    classes: Integers


def confident_rows(output: Floats, labels: int, confidence: float) -> Confident:
    """Select rows by confidence: the objectness times the highest score of a class."""
    # A score is at most the objectness, so most rows are excluded early.
    indices = np.flatnonzero(output[:, 4] >= confidence)
    chosen = output[indices]
    classes = chosen[:, 5 : 5 + labels].argmax(axis=1)
    scores = chosen[:, 4] * chosen[np.arange(len(indices)), 5 + classes]
    confident = scores >= confidence
    return Confident(indices[confident], chosen[confident], scores[confident], classes[confident])


def covers_input(rows: Floats, manifest: Manifest) -> bool:
    """Whether centers are pixels, which cover the input; offsets from grid points are small."""
    return bool(np.abs(rows[:, 0]).max() > manifest.input_width / 2)
