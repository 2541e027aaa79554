"""The tracker: assigns ids to the detections of one source over time.

ByteTrack (arXiv 2110.06864): confident detections are matched to all tracks, then weak ones to the remaining
tracks, each time so that the sum of the overlaps is greatest. A confident detection without a track starts
one. Weak ones only tell where a track goes on, and are in no result. A track that is not seen in its second
frame ends, any other when it was not seen for a second.

It decides as `ByteTrackTracker` of the package `trackers` does, but all tracks are computed at once, every
row keeps its place, and a track has its id from its first frame on.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import supervision as sv
from scipy.optimize import linear_sum_assignment

from streamfleet_core.protocol.values import Tracker as TrackerName
from streamfleet_worker.video.detection.kalman_boxes import Doubles, KalmanBoxes

_USUAL_FPS = 30.0  # frames/s of a source that declares none
_LEAST_OVERLAP = 0.1  # IoU of a track and its detection
WEAKEST = 0.1  # confidence of a detection by which a track is followed, as in the paper's code
_MEMORY = 1.0  # seconds for which a track may remain unseen
_TINY = np.finfo(np.float64).tiny  # instead of 0, which nothing is divided by

_Indices = npt.NDArray[np.int64]


class Tracker:
    """A tracker for one source. Frames must be passed in order. Only one thread may use it."""

    def __init__(self, *, confidence: float, fps: float) -> None:
        """`confidence`: tracks start at it. `fps`: the frames/s of the source, 0 if unknown."""
        self.name: TrackerName = "bytetrack"
        self._confidence = confidence
        self._time: float | None = None  # media time of the last frame
        # By track, the oldest first:
        self._boxes = KalmanBoxes(fps or _USUAL_FPS)
        self._ids = np.empty(0, np.int64)
        self._confirmed = np.empty(0, np.bool_)  # it was seen in its second frame
        self._unseen = np.empty(0)  # seconds
        self._next_id = 1

    def retune(self, *, confidence: float) -> None:
        """Start new tracks at another confidence; existing tracks continue."""
        self._confidence = confidence

    def update(self, detections: sv.Detections, media_time: float) -> sv.Detections:
        """Set `tracker_id` on the confident detections, which keep their order, and return them.

        All get an id, or none: a frame from before the last one changes nothing and gets no ids.
        """
        confident, ids = self._is_confident(detections), None
        if self._move_on(media_time):
            ids = self._ids_of(_columns(detections.xyxy), confident)
        if not confident.all():
            detections = detections[confident]  # type: ignore[assignment]
        detections.tracker_id = ids
        return detections

    def _move_on(self, media_time: float) -> bool:
        """Predict the tracks at this time and drop those that were not seen for too long."""
        elapsed = media_time - (media_time if self._time is None else self._time)
        if not 0 <= elapsed < math.inf:
            return False
        self._time = media_time
        if elapsed and len(self._ids):
            self._boxes.predict(elapsed)
            self._unseen += elapsed
            self._keep(self._unseen <= _MEMORY)
        return True

    def _is_confident(self, detections: sv.Detections) -> npt.NDArray[np.bool_]:
        if detections.confidence is None:
            return np.ones(len(detections), np.bool_)
        confident: npt.NDArray[np.bool_] = detections.confidence >= self._confidence
        return confident

    def _ids_of(self, boxes: Doubles, confident: npt.NDArray[np.bool_]) -> _Indices:
        """Return the ids of the confident ones of boxes (4, n)."""
        tracks, rows = self._match(boxes, confident)
        ids = np.full(len(confident), -1, np.int64)
        ids[rows] = self._ids[tracks]
        self._boxes.correct(tracks, boxes[:, rows])
        self._confirmed[tracks] = True
        self._unseen[tracks] = 0
        if len(tracks) < len(self._ids):
            self._keep(self._confirmed | (self._unseen == 0))
        if len(rows) < len(ids):
            new = confident & (ids < 0)
            ids[new] = self._start_tracks(boxes[:, new])
        return ids[confident]

    def _match(self, boxes: Doubles, confident: npt.NDArray[np.bool_]) -> tuple[_Indices, _Indices]:
        """Return the tracks that were seen, and the indices of their boxes."""
        estimates = self._boxes.boxes
        if confident.all():
            return _assign(estimates, boxes)
        first, later = np.flatnonzero(confident), np.flatnonzero(~confident)
        tracks, rows = _assign(estimates, boxes[:, first])
        free = np.delete(np.arange(len(self._ids)), tracks)
        further_tracks, further_rows = _assign(estimates[:, free], boxes[:, later])
        return (
            np.concatenate([tracks, free[further_tracks]]),
            np.concatenate([first[rows], later[further_rows]]),
        )

    def _start_tracks(self, boxes: Doubles) -> _Indices:
        """Start a track for each box, and return their ids."""
        count = boxes.shape[1]
        ids = np.arange(self._next_id, self._next_id + count)
        self._next_id += count
        self._boxes.add(boxes)
        self._ids = np.concatenate([self._ids, ids])
        self._confirmed = np.concatenate([self._confirmed, np.zeros(count, np.bool_)])
        self._unseen = np.concatenate([self._unseen, np.zeros(count)])
        return ids

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        if kept.all():
            return
        self._boxes.keep(kept)
        self._ids, self._confirmed, self._unseen = self._ids[kept], self._confirmed[kept], self._unseen[kept]


def _columns(xyxy: npt.NDArray[np.generic]) -> Doubles:
    """Boxes (n, 4) as columns (4, n)."""
    return np.ascontiguousarray(xyxy.T, np.float64)


def _assign(tracks: Doubles, boxes: Doubles) -> tuple[_Indices, _Indices]:
    """Pair tracks (4, n) and boxes (4, m) so that the sum of their overlaps is greatest. Return indices."""
    overlaps = _overlaps(tracks, boxes)
    at, matched = linear_sum_assignment(overlaps, maximize=True)
    enough = overlaps[at, matched] >= _LEAST_OVERLAP
    return at[enough], matched[enough]


def _overlaps(tracks: Doubles, boxes: Doubles) -> npt.NDArray[np.float32]:
    """The intersection over union (n, m) of boxes (4, n) with boxes (4, m).

    Rounded to 32 bits, so that rounding errors do not decide between equal overlaps.
    """
    first = np.maximum(tracks[:2, :, None], boxes[:2, None])
    last = np.minimum(tracks[2:, :, None], boxes[2:, None])
    width, height = np.maximum(last - first, 0)
    shared = width * height
    whole = _area(tracks)[:, None] + _area(boxes) - shared
    # Of boxes without area, or of a predicted box that is inverted, nothing is shared.
    overlaps: npt.NDArray[np.float32] = (shared / np.maximum(whole, _TINY)).astype(np.float32)
    return overlaps


def _area(boxes: Doubles) -> Doubles:
    width, height = boxes[2:] - boxes[:2]
    area: Doubles = width * height
    return area
