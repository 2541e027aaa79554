"""What changes while the sources play: at once, between two frames, and without losing one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamfleet_core.protocol.values import Manifest, SourceSpec
from tests.fakes.models import manifest_of, write_constant_model
from tests.fakes.process_harness import (
    ProcessHarness,
    Receiver,
    is_camera,
    until_ended,
    wait_for,
    write_video,
)
from tests.fakes.task_models import write_segmenting_model

FRAMES = 320
PACE = 40  # frames a second: what is to be changed must not be over when this process stands still meanwhile


@pytest.fixture
def two_boxes(stand: ProcessHarness) -> Manifest:
    """An engine that finds a sure box and an unsure one in every picture."""
    path = stand.folder / "two.onnx"
    output = np.array([[32, 32, 16, 8, 0.9, 0, 0], [10, 32, 8, 8, 0, 0.5, 0]], np.float32).T[None]
    write_constant_model(path, output)
    manifest = manifest_of(path, width=64, height=64)
    stand.engine(path, manifest)
    return manifest


def after(stand: ProcessHarness, frames: int, *, generation: int = 1) -> None:
    """Wait for so many frames of a generation."""
    wait_for("some frames", lambda: sum(one["gen"] == generation for one in stand.receiver.metadata) > frames)


def by_generation(documents: list[dict[str, Any]], what: Any) -> dict[int, set[Any]]:
    """What is found in the documents of each generation."""
    found: dict[int, set[Any]] = {}
    for document in documents:
        found.setdefault(document["inference_metadata"]["gen"], set()).add(what(document))
    return found


def film(stand: ProcessHarness, frames: int = FRAMES) -> str:
    return str(write_video(stand.folder / "film.avi", frames))


def assert_whole(stand: ProcessHarness, frames: int = FRAMES) -> None:
    """Every frame came once and in order, under keys that rise."""
    metadata = stand.receiver.metadata
    keys = [(one["gen"], one["inc"], one["seq"]) for one in metadata]
    assert [one["frame_id"] for one in metadata] == list(range(1, frames + 1))
    assert keys == sorted(set(keys))


def test_thresholds_change_between_two_frames(stand: ProcessHarness, two_boxes: Manifest) -> None:
    camera = stand.camera(two_boxes, film(stand), max_fps=PACE, confidence=0.4)

    after(stand, 16)
    camera.change(2, confidence=0.7)
    after(stand, 16, generation=2)
    camera.change(3, confidence=0.4, max_detections=1, max_fps=None)
    report = until_ended(camera)

    assert_whole(stand)
    assert by_generation(stand.receiver.documents, lambda one: len(one["predictions"])) == {
        1: {2},
        2: {1},
        3: {1},
    }
    assert report.generation == 3


def test_the_kept_classes_change_between_two_frames_and_unknown_ones_are_told(
    stand: ProcessHarness, two_boxes: Manifest
) -> None:
    first, second, third = two_boxes.labels
    path = film(stand)
    camera = stand.camera(two_boxes, (SourceSpec(path, classes=(second, third)),), max_fps=PACE)

    after(stand, 16)
    camera.change(2, sources=(SourceSpec(path, classes=("zebra",)),))
    told = camera.until("it tells", lambda report: report.generation == 2 and report.reason)
    after(stand, 16, generation=2)
    camera.change(3, sources=(SourceSpec(path),), max_fps=None)
    report = until_ended(camera)

    assert_whole(stand)
    assert by_generation(
        stand.receiver.documents, lambda one: tuple(box["class"] for box in one["predictions"])
    ) == {1: {(second,)}, 2: {()}, 3: {(first, second)}}
    assert told.reason.startswith("classes: expected a class of the model")
    assert "'zebra'" in told.reason
    assert report.reason == ""


def test_the_format_of_masks_changes_between_two_frames(stand: ProcessHarness) -> None:
    path = stand.folder / "masks.onnx"
    write_segmenting_model(path)
    manifest = manifest_of(path, width=64, height=64, labels=("bolt", "nut"), task="segment")
    manifest = replace(manifest, outputs=("output0", "output1"))
    stand.engine(path, manifest)
    camera = stand.camera(manifest, film(stand), max_fps=PACE)

    after(stand, 16)
    camera.change(2, mask_format="rle")
    after(stand, 16, generation=2)
    camera.change(3, max_fps=None)
    until_ended(camera)

    assert_whole(stand)
    forms = by_generation(
        stand.receiver.documents,
        lambda one: tuple((each["mask_format"], "points" in each) for each in one["predictions"]),
    )
    assert forms == {1: {(("polygon", True),) * 2}, 2: {(("rle", False),) * 2}, 3: {(("polygon", True),) * 2}}


def test_the_region_changes_between_two_frames(stand: ProcessHarness, two_boxes: Manifest) -> None:
    first, second, _ = two_boxes.labels
    path = film(stand)
    right = ((0.3, 0.0), (1.0, 0.0), (1.0, 1.0), (0.3, 1.0))
    camera = stand.camera(two_boxes, (SourceSpec(path, region=right),), max_fps=PACE)

    after(stand, 16)
    camera.change(2, sources=(SourceSpec(path, region=((0, 0), (0.3, 0), (0.3, 1), (0, 1))),))
    after(stand, 16, generation=2)
    camera.change(3, sources=(SourceSpec(path),), max_fps=None)
    until_ended(camera)

    assert_whole(stand)
    assert by_generation(
        stand.receiver.documents, lambda one: tuple(box["class"] for box in one["predictions"])
    ) == {1: {(first,)}, 2: {(second,)}, 3: {(first, second)}}


def test_a_change_during_a_pause_holds_for_the_frames_that_wait(
    stand: ProcessHarness, two_boxes: Manifest
) -> None:
    camera = stand.camera(two_boxes, film(stand), max_fps=PACE)

    after(stand, 16)
    camera.change(2, "pause")
    camera.until("it is paused", lambda report: is_camera(report, "paused"))
    camera.change(3, "run", confidence=0.7, max_fps=None)
    until_ended(camera)

    assert_whole(stand)
    assert by_generation(stand.receiver.documents, lambda one: len(one["predictions"])) == {1: {2}, 3: {1}}


def test_another_pace_holds_at_once(stand: ProcessHarness, two_boxes: Manifest) -> None:
    camera = stand.camera(two_boxes, film(stand), max_fps=5)

    after(stand, 4)
    camera.change(2, max_fps=None)
    until_ended(camera)  # a minute at the old pace, which is more than this waits

    assert_whole(stand)


def test_a_slower_pace_holds_at_once(stand: ProcessHarness, two_boxes: Manifest) -> None:
    camera = stand.camera(two_boxes, film(stand), max_fps=PACE)

    after(stand, 16)
    camera.change(2, max_fps=10)
    report = camera.until("it is slow", lambda report: report.generation == 2 and 8 < report.fps < 12)

    assert report.sources[0].emitted < FRAMES
    ids = stand.receiver.frame_ids
    assert ids == list(range(1, len(ids) + 1))


def test_a_sink_that_comes_gets_every_frame_from_there_on_and_one_that_stays_loses_none(
    stand: ProcessHarness, two_boxes: Manifest
) -> None:
    other = Receiver()
    try:
        camera = stand.camera(two_boxes, film(stand), max_fps=PACE)

        after(stand, 16)
        camera.change(2, sinks=(stand.receiver.sink, other.sink))
        wait_for("the new sink has some", lambda: len(other.datagrams) > 16)
        camera.change(3, sinks=(other.sink,), max_fps=None)
        report = until_ended(camera)

        ours, theirs = stand.receiver.frame_ids, other.frame_ids
        assert ours == list(range(1, len(ours) + 1))
        assert theirs == list(range(theirs[0], FRAMES + 1))
        assert {one["gen"] for one in stand.receiver.metadata} == {1, 2}
        assert {one["gen"] for one in other.metadata} == {2, 3}
        assert theirs[0] <= ours[-1] + 1
        assert report.dropped == {
            f"udp://127.0.0.1:{other.sink.port}": 0,
            "publisher": report.dropped["publisher"],
        }
    finally:
        other.close()


def test_a_sink_that_stays_keeps_its_counter(stand: ProcessHarness, two_boxes: Manifest) -> None:
    nowhere = type(stand.receiver.sink)("no-such-host.invalid", 9)
    camera = stand.camera(two_boxes, film(stand), max_fps=PACE, sinks=(nowhere, stand.receiver.sink))

    after(stand, 16)
    camera.change(2, sinks=(nowhere,), max_fps=None)
    report = until_ended(camera)

    assert report.dropped["udp://no-such-host.invalid:9"] == FRAMES


def test_a_tracker_that_is_switched_on_begins_anew(stand: ProcessHarness, two_boxes: Manifest) -> None:
    camera = stand.camera(two_boxes, film(stand), max_fps=PACE, tracker="bytetrack")

    after(stand, 16)
    camera.change(2, tracker=None)
    after(stand, 16, generation=2)
    camera.change(3, tracker="bytetrack", confidence=0.7, max_fps=None)
    until_ended(camera)

    assert_whole(stand)
    assert by_generation(
        stand.receiver.documents, lambda one: tuple(box.get("tracker_id") for box in one["predictions"])
    ) == {1: {(1, 2)}, 2: {(None, None)}, 3: {(1,)}}


def test_a_tracker_that_stays_keeps_its_ids_when_thresholds_change(
    stand: ProcessHarness, two_boxes: Manifest
) -> None:
    camera = stand.camera(two_boxes, film(stand), max_fps=PACE, tracker="bytetrack", confidence=0.7)

    after(stand, 16)
    camera.change(2, confidence=0.4, max_fps=None)
    until_ended(camera)

    assert_whole(stand)
    assert by_generation(
        stand.receiver.documents, lambda one: tuple(box.get("tracker_id") for box in one["predictions"])
    ) == {1: {(1,)}, 2: {(1, 2)}}


def test_another_tracker_begins_between_two_frames(stand: ProcessHarness, two_boxes: Manifest) -> None:
    camera = stand.camera(two_boxes, film(stand), max_fps=PACE, tracker="bytetrack", confidence=0.7)

    after(stand, 16)
    camera.change(2, confidence=0.4, tracker="ocsort")
    after(stand, 16, generation=2)
    camera.change(3, confidence=0.4, max_fps=None, tracker=None)
    until_ended(camera)

    assert_whole(stand)
    assert by_generation(
        stand.receiver.documents, lambda one: tuple(box.get("tracker_id") for box in one["predictions"])
    ) == {1: {(1,)}, 2: {(1, 2)}, 3: {(None, None)}}


def test_a_live_source_goes_on_under_the_new_spec_without_being_opened_anew(
    stand: ProcessHarness, squares: Manifest
) -> None:
    camera = stand.camera(squares, "TestPatternStreamProducer")
    after(stand, 3)

    camera.change(2, max_fps=2)
    report = camera.until(
        "it is thinned",
        lambda report: report.generation == 2 and report.sources[0].dropped.get("max_fps", 0) >= 6,
    )

    events = [one["event_type"] for one in report.report["video_source_status_updates"]]
    ids = stand.receiver.frame_ids
    assert events.count("VIDEO_CONSUMPTION_STARTED") == 1
    assert ids == sorted(set(ids))
