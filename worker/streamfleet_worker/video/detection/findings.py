"""What was found in a frame: detections, or the classes of the whole picture.

Detections carry what a task adds in `data`, one entry each, so that it is selected and sorted with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv
from supervision.config import ORIENTED_BOX_COORDINATES

Findings = sv.Detections | sv.Classifications

CORNERS: str = ORIENTED_BOX_COORDINATES  # (n, 4, 2): the corners of oriented boxes, in pixels of the frame
KEYPOINTS = "keypoints"  # (n, points, 3): x and y in pixels of the frame, and the confidence
MASKS = "masks"  # (n,) objects: a `BoxMask` each


def data_of(detections: sv.Detections, key: str) -> npt.NDArray[Any] | None:
    """What the task of the model has added under this key; None if it has not."""
    values = detections.data.get(key)
    return None if values is None else np.asarray(values)
