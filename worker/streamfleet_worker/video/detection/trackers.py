"""The trackers by their names: ours for ByteTrack, and those of the package `trackers`."""

from __future__ import annotations

from streamfleet_core.protocol.values import Tracker as TrackerName
from streamfleet_worker.video.detection.package_tracker import PackageTracker
from streamfleet_worker.video.detection.tracker import Tracker

AnyTracker = Tracker | PackageTracker


def tracker_of(name: TrackerName, *, confidence: float, fps: float) -> AnyTracker:
    """A tracker for one source.

    Args:
        name: which one.
        confidence: tracks start at it.
        fps: the frames/s of the source, 0 if unknown.

    Raises: ImportError, AttributeError if it needs a package that is missing or too old.
    """
    if name == "bytetrack":
        return Tracker(confidence=confidence, fps=fps)
    return PackageTracker(name, confidence=confidence, fps=fps)
