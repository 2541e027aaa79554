"""The lane of a source: which frames nobody needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamfleet_core.protocol.values import Motion, SourceSpec
from streamfleet_worker.ipc.playback_position import Progress
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Frame, Stamp
from streamfleet_worker.video.source_lane import SourceLane
from streamfleet_worker.video.sources.packet_skipper import Demand
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


def test_the_next_pictures_are_needed_at_the_pace_of_a_live_source() -> None:
    lane = lane_of("TestPatternStreamProducer", max_fps=0.5)

    demand = lane.demand()
    lane.gate.use(Motion(), None)
    gated = lane.demand()
    lane.muted = True
    muted = lane.demand()  # when it is resumed, it must not wait for a keyframe
    lane.muted = False
    lane.pace.limit(None)

    assert demand == Demand(due=102.0, interval=2.0, check_by=106.0, exact=False)
    assert gated == replace(demand, exact=True)
    assert muted is None
    assert lane.demand() is None
    assert lane_of("/film.mp4", max_fps=0.5).demand() is None


def test_every_frame_of_a_file_is_needed() -> None:
    lane = lane_of("/film.mp4", max_fps=10)
    lane.muted = True

    assert lane.drop_cause(100.01) is None


def screened(lane: SourceLane, frame_id: int, picture: np.ndarray) -> Frame | None:
    """Show a lane a frame of two per second."""
    at = 100 + frame_id / 2
    stamp = Stamp(frame_id=frame_id, decoded_at=at, wall_ns=0, boot_ns=0, media_time=at, fps=0.0)
    return lane.screen(Frame(stamp, ArrayPicture(picture)))


def test_a_source_without_a_gate_needs_every_frame_as_it_is() -> None:
    lane = lane_of("TestPatternStreamProducer", max_fps=10)

    frame = screened(lane, 2, np.zeros((72, 128, 3), np.uint8))

    assert frame is not None
    assert frame.overview is None


def test_a_live_source_is_compared_with_what_was_submitted() -> None:
    dark, light = np.zeros((72, 128, 3), np.uint8), np.full((72, 128, 3), 200, np.uint8)
    lane = lane_of("TestPatternStreamProducer", max_fps=10)
    lane.gate.use(Motion(), None)

    unsubmitted = [screened(lane, number, dark) for number in (2, 3)]
    assert unsubmitted[1] is not None
    lane.submitted(unsubmitted[1])
    then = [screened(lane, number, picture) for number, picture in ((4, dark), (5, light), (6, dark))]

    assert None not in unsubmitted
    assert [frame is None for frame in then] == [True, False, True]
    assert then[1] is not None
    assert then[1].skipped == 0.5


def test_the_still_frames_of_a_file_are_passed_when_no_frame_before_them_waits() -> None:
    picture = np.zeros((72, 128, 3), np.uint8)
    progress, wakeup = Progress(1), Wakeup()
    metrics = SourceMetrics("film.avi", now=100.0, changed=wakeup)
    lane = SourceLane(0, SourceSpec("film.avi"), wakeup=wakeup, metrics=metrics, progress=progress)
    lane.gate.use(Motion(), None)

    first = screened(lane, 1, picture)
    assert first is not None
    lane.buffer.put(first)
    assert [screened(lane, number, picture) for number in (2, 3)] == [None, None]
    lane.advance_past_still()
    waiting = progress.position()
    lane.take(110.0)
    lane.advance(1)
    lane.advance_past_still()

    assert (waiting, progress.position()) == (0, 3)


def test_a_frozen_picture_of_a_live_source_is_found_without_motion() -> None:
    lane = lane_of("TestPatternStreamProducer", max_fps=10)
    lane.gate.use(Motion(max_still=100.0), None)
    picture = np.zeros((72, 128, 3), np.uint8)
    first = screened(lane, 2, picture)
    assert first is not None
    lane.submitted(first)

    for number in range(3, 40):
        assert screened(lane, number, picture) is None

    assert lane.metrics.source_stat(100 + 39 / 2).frozen_for == 18.0
