"""Samples as devices pick them, for tests."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from streamfleet_core.datasets.picked_sample import Picked, Sample
from streamfleet_core.protocol.prediction import Prediction

WIDTH, HEIGHT = 64, 48
BEGAN = float(int(time.time()) - 3600)  # Unix seconds: what is a month old would be removed


def jpeg(shade: int = 128) -> bytes:
    """A small grey picture."""
    return bytes(cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), shade, np.uint8))[1])


def picked(number: int = 1, **changes: Any) -> Picked:
    """A sample of edge-1 with one box, with changes."""
    image = jpeg()
    box: Prediction = {
        "x": 20.0,
        "y": 10.0,
        "width": 8.0,
        "height": 4.0,
        "confidence": 0.75,
        "class": "nut",
        "class_id": 1,
    }
    sample = Sample(
        pipeline_id="door",
        device="edge-1",
        source_id=0,
        frame_id=number,
        captured_at=BEGAN + number,
        width=WIDTH,
        height=HEIGHT,
        size=len(image),
        labels=("bolt", "nut"),
        prediction={"image": {"width": WIDTH, "height": HEIGHT}, "predictions": [box]},
        strategy="some",
        tags=("night",),
        batch="samples",
        dataset="parts",
    )
    return Picked(replace(sample, **changes), image)


def path_of(item: Picked) -> str:
    """Where it is put."""
    return f"/v2/samples/{item.sample.dataset}/{item.sample.name}"
