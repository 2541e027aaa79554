"""The tracker: assigns ids to the detections of one source over time.

ByteTrack (arXiv 2110.06864) from the package `trackers`, which reorders rows and assigns the id of a new
track only in its second frame. Here every row keeps its place, and a track has its id from its first frame
on. No other module imports that package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv
from trackers import ByteTrackTracker

_USUAL_FPS = 30.0  # frames/s of a source that declares none
_ROW = "row"  # the index of the input detection
_SAME_BOX = 0.5  # pixels


class Tracker:
    """A tracker for one source. Frames must be passed in order. Only one thread may use it."""

    def __init__(self, *, confidence: float, fps: float) -> None:
        # With the default thresholds, a detection of confidence 0.5 would never be tracked.
        self._tracker = ByteTrackTracker(
            frame_rate=fps or _USUAL_FPS,
            track_activation_threshold=confidence,
            high_conf_det_threshold=confidence,
        )
        self._ids: dict[Any, int] = {}  # ours, by track
        self._next_id = 1

    def retune(self, *, confidence: float) -> None:
        """Start new tracks at another confidence; existing tracks continue."""
        self._tracker.track_activation_threshold = confidence
        self._tracker.high_conf_det_threshold = confidence

    def update(self, detections: sv.Detections, media_time: float) -> sv.Detections:
        """Set `tracker_id` on the detections, which keep their order: all get an id, or none."""
        marked = sv.Detections(
            xyxy=detections.xyxy,
            confidence=detections.confidence,
            class_id=detections.class_id,
            data={_ROW: np.arange(len(detections))},
        )
        tracked = self._tracker.update(marked, timestamp=media_time)
        self._name_tracks()
        detections.tracker_id = self._ids_of(tracked, len(detections))
        return detections

    def _name_tracks(self) -> None:
        names = {}
        for track in self._tracker.tracks:
            name = self._ids.get(track)
            if name is None:
                name, self._next_id = self._next_id, self._next_id + 1
            names[track] = name
        self._ids = names

    def _ids_of(self, tracked: sv.Detections, count: int) -> npt.NDArray[np.int64] | None:
        ids = np.full(count, -1, np.int64)
        confirmed = {track.tracker_id: name for track, name in self._ids.items()}
        begun = {track: name for track, name in self._ids.items() if track.tracker_id == -1}
        assert tracked.tracker_id is not None
        rows = tracked.data.get(_ROW, ())
        for row, box, theirs in zip(rows, tracked.xyxy, tracked.tracker_id, strict=True):
            if theirs != -1:
                ids[row] = confirmed[theirs]
                continue
            for track in begun:
                # A track that started with this detection has exactly its box.
                if np.abs(track.get_state_bbox() - box).max() < _SAME_BOX:
                    ids[row] = begun.pop(track)
                    break
        # `sv.Detections.from_inference` fails if only some detections have ids.
        return None if (ids == -1).any() else ids
