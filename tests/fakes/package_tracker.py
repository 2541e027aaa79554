"""ByteTrack as the package `trackers` has it, with the interface of our tracker: to compare with it.

The package returns weak boxes, too, and ours does not.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from tests.fakes.detections_columns import tracker_ids


class PackageTracker:
    """Our ids for the tracks of the package: from the first frame on, with the rows in their order."""

    def __init__(self, *, confidence: float, fps: float) -> None:
        self.tracker = ByteTrackTracker(
            frame_rate=fps or 30.0, track_activation_threshold=confidence, high_conf_det_threshold=confidence
        )
        self._ids: dict[Any, int] = {}  # ours, by track
        self._next_id = 1

    def retune(self, *, confidence: float) -> None:
        self.tracker.track_activation_threshold = confidence
        self.tracker.high_conf_det_threshold = confidence

    def update(self, detections: sv.Detections, media_time: float) -> sv.Detections:
        marked = sv.Detections(
            xyxy=detections.xyxy,
            confidence=detections.confidence,
            class_id=detections.class_id,
            data={"row": np.arange(len(detections))},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about times that do not rise
            tracked = self.tracker.update(marked, timestamp=media_time)
        begun = self._name_tracks()
        confirmed = {track.tracker_id: name for track, name in self._ids.items() if track.tracker_id != -1}
        ids = np.full(len(detections), -1, np.int64)
        for row, box, theirs in zip(
            tracked.data.get("row", ()), tracked.xyxy, tracker_ids(tracked), strict=True
        ):
            if theirs != -1:
                ids[row] = confirmed[theirs]
            elif detections.confidence is None or detections.confidence[row] >= self._confidence:
                # A track that started in this frame has exactly the box of its detection.
                started = next((track for track in begun if (track.get_state_bbox() == box).all()), None)
                if started is not None:
                    begun.remove(started)
                    ids[row] = self._ids[started]
        confident = np.ones(len(detections), np.bool_)
        if detections.confidence is not None:
            confident = detections.confidence >= self._confidence
        shown = detections[confident]
        assert isinstance(shown, sv.Detections)
        shown.tracker_id = None if (ids[confident] == -1).any() else ids[confident]
        return shown

    @property
    def _confidence(self) -> float:
        return self.tracker.track_activation_threshold

    def _name_tracks(self) -> list:
        """Give each new track an id, and return the new tracks."""
        begun, names = [], {}
        for track in self.tracker.tracks:
            if track in self._ids:
                names[track] = self._ids[track]
            else:
                begun.append(track)
                names[track], self._next_id = self._next_id, self._next_id + 1
        self._ids = names
        return begun
