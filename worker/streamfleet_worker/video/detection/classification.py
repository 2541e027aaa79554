"""Reads the scores of a model that classifies whole pictures. Pure."""

from __future__ import annotations

import numpy as np
import supervision as sv

from streamfleet_worker.families.adapter import Outputs
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.selection import ALL, Selection


def classify(outputs: Outputs, rules: PostProcessing, selection: Selection = ALL) -> sv.Classifications:
    """The kept classes that are confident enough, the most confident first, and in any case that one.

    Without any kept class, all classes are kept: a picture always has a class.
    """
    scores = np.nan_to_num(outputs[0][0], nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    order = np.argsort(-scores, kind="stable")
    kept = order[selection.keeps_classes(order)]
    order = (kept if len(kept) else order)[: max(1, rules.max_detections)]
    order = order[: max(1, int((scores[order] >= rules.confidence).sum()))]
    return sv.Classifications(class_id=order.astype(np.int64), confidence=scores[order])
