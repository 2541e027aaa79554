"""The lane of a source: which frames nobody needs."""

from __future__ import annotations

import numpy as np

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.ipc.playback_position import Progress
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Frame, Stamp
from streamfleet_worker.video.source_lane import SourceLane
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics


def lane_of(reference: str, *, max_fps: float) -> SourceLane:
    """A lane from which two frames were taken at 100 s: the next is due after an interval."""
    wakeup = Wakeup()
    metrics = SourceMetrics(reference, now=100.0, changed=wakeup)
    lane = SourceLane(0, SourceSpec(reference), wakeup=wakeup, metrics=metrics, progress=Progress(1))
    stamp = Stamp(frame_id=1, decoded_at=100.0, wall_ns=0, boot_ns=0, media_time=0.0, fps=0.0)
    lane.buffer.put(Frame(stamp, ArrayPicture(np.zeros((2, 2, 3), np.uint8))))
    lane.pace.limit(max_fps)
    assert lane.take(100.0) is not None
    lane.pace.went(100.0)
    lane.pace.went(100.0)
    return lane


def test_a_frame_ahead_of_its_pace_is_not_needed() -> None:
    lane = lane_of("TestPatternStreamProducer", max_fps=10)

    assert [lane.drop_cause(now) for now in (100.01, 100.09)] == ["max_fps"] * 2
    assert lane.drop_cause(100.1) is None


def test_a_frame_of_a_muted_source_is_not_needed() -> None:
    lane = lane_of("TestPatternStreamProducer", max_fps=10)

    lane.muted = True

    assert [lane.drop_cause(now) for now in (100.01, 100.2)] == ["muted"] * 2


def test_the_freeze_detector_gets_its_frames_in_any_case() -> None:
    lane = lane_of("TestPatternStreamProducer", max_fps=0.1)
    lane.muted = True

    assert lane.drop_cause(100.49) == "muted"
    assert lane.drop_cause(100.5) is None


def test_every_frame_of_a_file_is_needed() -> None:
    lane = lane_of("/film.mp4", max_fps=10)
    lane.muted = True

    assert lane.drop_cause(100.01) is None
