"""Ids for the predictions of each source, written to the very boxes that they belong to."""

from __future__ import annotations

import supervision as sv

from streamfleet_worker.video.detection.tracker import Tracker
from streamfleet_worker.video.frame import Stamp
from streamfleet_worker.video.outputs.prediction import Document


class Tracking:
    """One tracker a source. One thread uses it, and each source's frames come in their order."""

    def __init__(self, *, confidence: float) -> None:
        """Tracks begin at this confidence. A frame in which one box has no id has none at all."""
        self._confidence = confidence
        self._trackers: dict[int, Tracker] = {}  # by source

    def track(self, document: Document, source_id: int, stamp: Stamp) -> Document:
        """The document with a `tracker_id` at each prediction, or at none."""
        tracker = self._trackers.get(source_id)
        if tracker is None:
            tracker = Tracker(confidence=self._confidence, fps=stamp.fps)
            self._trackers[source_id] = tracker
        ids = tracker.update(sv.Detections.from_inference(document), stamp.media_time).tracker_id
        if ids is None:
            return document
        predictions = zip(document["predictions"], ids.tolist(), strict=True)
        return {**document, "predictions": [_named(prediction, name) for prediction, name in predictions]}


def _named(prediction: Document, tracker_id: int) -> Document:
    """With the id where the original has it: before `detection_id`."""
    behind: Document = {key: prediction[key] for key in ("detection_id", "parent_id") if key in prediction}
    before = {key: value for key, value in prediction.items() if key not in behind}
    return {**before, "tracker_id": tracker_id, **behind}
