"""The columns of `supervision.Detections`, where there must be one: its types let each be missing."""

from __future__ import annotations

import numpy as np
import supervision as sv


def scores(found: sv.Detections) -> np.ndarray:
    """How sure each is."""
    assert found.confidence is not None
    return found.confidence


def class_ids(found: sv.Detections) -> np.ndarray:
    """What each is, as a number."""
    assert found.class_id is not None
    return found.class_id


def tracker_ids(found: sv.Detections) -> np.ndarray:
    """Which of its tracks each belongs to."""
    assert found.tracker_id is not None
    return found.tracker_id
