"""Adds tracker ids to the predictions of each source."""

from __future__ import annotations

from streamfleet_core.protocol.values import Tracker as TrackerName
from streamfleet_worker.video.detection.trackers import AnyTracker, tracker_of
from streamfleet_worker.video.frame import Stamp
from streamfleet_worker.video.outputs.prediction import Document
from streamfleet_worker.video.outputs.reading import boxes_of


class Tracking:
    """One tracker per source. Only one thread may use it, with the frames of each source in order."""

    def __init__(self, name: TrackerName = "bytetrack", *, confidence: float) -> None:
        """Tracks start at this confidence. If one box of a frame has no id, none of its boxes gets one."""
        self.name, self._confidence = name, confidence
        self._trackers: dict[int, AnyTracker] = {}  # by source

    def track(self, document: Document, source_id: int, stamp: Stamp) -> Document:
        """Return the document with a `tracker_id` in each prediction, or in none.

        Weak boxes, which only ByteTrack is given, are left out. Only boxes are followed. The classes of a
        whole picture have none, and are left as they are.
        """
        if not all("x" in prediction for prediction in document["predictions"]):
            return document
        tracker = self._trackers.get(source_id)
        if tracker is None:
            tracker = tracker_of(self.name, confidence=self._confidence, fps=stamp.fps)
            self._trackers[source_id] = tracker
        predictions = document["predictions"]
        tracked = tracker.update(boxes_of(document), stamp.media_time)
        if len(tracked) < len(predictions):
            predictions = [each for each in predictions if each["confidence"] >= self._confidence]
        if tracked.tracker_id is not None:
            ids = tracked.tracker_id.tolist()
            predictions = [_with_id(*each) for each in zip(predictions, ids, strict=True)]
        return {**document, "predictions": predictions}


def _with_id(prediction: Document, tracker_id: int) -> Document:
    """Insert the id where Roboflow has it: before `detection_id`."""
    keys = list(prediction)
    at = keys.index("detection_id") if "detection_id" in prediction else len(keys)
    before = {key: prediction[key] for key in keys[:at]}
    return {**before, "tracker_id": tracker_id, **{key: prediction[key] for key in keys[at:]}}
