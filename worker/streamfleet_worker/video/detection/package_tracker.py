"""Trackers of the package `trackers` that need neither pictures nor networks, with the interface of ours.

They number a track when it is confirmed, and return rows in an order of their own. Here a track has its id
from its first frame on, and every row keeps its place.
"""

from __future__ import annotations

import importlib
import logging
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv

from streamfleet_core.protocol.values import Tracker as TrackerName

logger = logging.getLogger(__name__)

_USUAL_FPS = 30.0  # frames/s of a source that declares none
_SAME = 0.01  # pixels: a track that has just started has the box of its detection, apart from rounding
_TICK = 1e-6  # seconds, added to a time that stands still

# By name: the class, its further arguments, and the attributes that hold the confidence of new tracks.
_TRACKERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "sort": ("SORTTracker", {}, ("track_activation_threshold",)),
    "ocsort": ("OCSORTTracker", {}, ("high_conf_det_threshold",)),
    # Its compensation of a moving camera compares whole pictures, which takes longer than an inference.
    "botsort": (
        "BoTSORTTracker",
        {"enable_cmc": False},
        ("track_activation_threshold", "high_conf_det_threshold"),
    ),
    "cbiou": ("CBIoUTracker", {}, ("track_activation_threshold", "high_conf_det_threshold")),
}


def package_problem(name: TrackerName | None) -> str:
    """Why this tracker cannot be used on this device, for users; "" if it can."""
    if name is None or name not in _TRACKERS:
        return ""
    try:
        _class_of(name)
    except (ImportError, AttributeError) as exc:
        return f"tracker: expected the package trackers of version 2.6 or later for {name}: {exc}"
    return ""


class PackageTracker:
    """A tracker for one source. Frames must be passed in order. Only one thread may use it."""

    def __init__(self, name: TrackerName, *, confidence: float, fps: float) -> None:
        """Create one of `sort`, `ocsort`, `botsort` and `cbiou`.

        Args:
            confidence: tracks start at it.
            fps: the frames/s of the source, 0 if unknown.

        Raises: ImportError, AttributeError if the package is missing or too old.
        """
        self.name, self._confidence, self._fps = name, confidence, fps or _USUAL_FPS
        self._create = _class_of(name)
        self._time: float | None = None  # media time of the last frame
        self._next_id = 1
        self._restart()

    def _restart(self) -> None:
        _, further, thresholds = _TRACKERS[self.name]
        self._tracker = self._create(
            frame_rate=self._fps,
            minimum_consecutive_frames=1,
            **further,
            **dict.fromkeys(thresholds, self._confidence),
        )
        self._ids: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # ours, by track

    def retune(self, *, confidence: float) -> None:
        """Start new tracks at another confidence; existing tracks continue."""
        self._confidence = confidence
        for attribute in _TRACKERS[self.name][2]:
            setattr(self._tracker, attribute, confidence)

    def update(self, detections: sv.Detections, media_time: float) -> sv.Detections:
        """Set `tracker_id` on the detections, which keep their order: all get an id, or none.

        A frame from before the last one changes nothing and gets no ids.
        """
        ids = None
        before = self._time
        if math.isfinite(media_time) and (before is None or media_time >= before):
            self._time = media_time if before is None else max(media_time, before + _TICK)
            try:
                ids = self._ids_of(detections, self._time)
            except (ArithmeticError, ValueError, np.linalg.LinAlgError):
                # Estimates of sizes can become negative, and then no number.
                logger.warning("the tracker %s failed, and begins again", self.name, exc_info=True)
                self._restart()
        detections.tracker_id = ids
        return detections

    def _ids_of(self, detections: sv.Detections, at: float) -> npt.NDArray[np.int64] | None:
        """The ids of the rows, or None if not all of them have one."""
        count = len(detections)
        rows = sv.Detections(
            xyxy=detections.xyxy,
            confidence=detections.confidence,
            class_id=detections.class_id,
            data={"row": np.arange(count)},
        )
        with np.errstate(all="ignore"):
            tracked = self._tracker.update(rows, timestamp=at)
        confirmed = {track.tracker_id: track for track in self._tracker.tracks if track.tracker_id != -1}
        begun = [track for track in self._tracker.tracks if track not in self._ids]
        ids = np.full(count, -1, np.int64)
        numbers = () if tracked.tracker_id is None else tracked.tracker_id.tolist()
        for row, number in zip(tracked.data.get("row", ()), numbers, strict=True):
            track = confirmed.get(number) or _track_at(detections.xyxy[row], begun)
            if track is not None:
                ids[row] = self._id_of(track)
        return None if (ids < 0).any() else ids

    def _id_of(self, track: Any) -> int:
        if track not in self._ids:
            self._ids[track] = self._next_id
            self._next_id += 1
        return self._ids[track]


def _class_of(name: TrackerName) -> Callable[..., Any]:
    # Imported where it is needed: a device that does not use it does not load it.
    created: Callable[..., Any] = getattr(importlib.import_module("trackers"), _TRACKERS[name][0])
    return created


def _track_at(box: npt.NDArray[Any], tracks: list[Any]) -> Any | None:
    """Take the track that has started with this box out of the list."""
    for number, track in enumerate(tracks):
        if np.abs(track.get_state_bbox() - box).max() <= _SAME:
            return tracks.pop(number)
    return None
