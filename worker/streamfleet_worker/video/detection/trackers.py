"""The trackers by their names: ours for ByteTrack, and those of the package `trackers`."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_core.protocol.values import Task
from streamfleet_core.protocol.values import Tracker as TrackerName
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.detection.package_tracker import PackageTracker
from streamfleet_worker.video.detection.tracker import WEAKEST, Tracker

_WITHOUT_WEAK: tuple[Task, ...] = (
    "classify",
    "segment",
)  # masks of weak boxes would cost more than they tell

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


def rules_with_weak(rules: PostProcessing, tracker: TrackerName | None, task: Task) -> PostProcessing:
    """What to read of the outputs for a tracker: ByteTrack also follows boxes that are not confident enough.

    It leaves them out of its result.
    """
    if tracker != "bytetrack" or task in _WITHOUT_WEAK:
        return rules
    return replace(rules, confidence=min(rules.confidence, WEAKEST))
