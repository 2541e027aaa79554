"""Ids stay on their boxes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import supervision as sv

from streamfleet_api.local.demo import conveyor_model
from streamfleet_core.models.model_validation import validate_model
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.detection.tracker import Tracker
from streamfleet_worker.video.synthetic.conveyor import draw
from tests.fakes import moving_boxes
from tests.fakes.detections_columns import tracker_ids
from tests.fakes.package_tracker import PackageTracker


def scene(*boxes: tuple[float, float, float]) -> sv.Detections:
    """Squares of 40 pixels at (x, y), with a confidence."""
    xyxy = np.array([(x, y, x + 40, y + 40) for x, y, _ in boxes], np.float32).reshape(-1, 4)
    confidence = np.array([sure for *_, sure in boxes], np.float32)
    return sv.Detections(xyxy=xyxy, confidence=confidence, class_id=np.zeros(len(boxes), int))


def test_an_object_has_its_id_from_its_first_frame_on() -> None:
    tracker = Tracker(confidence=0.4, fps=10)

    ids = [
        tracker_ids(tracker.update(scene((10 + 3 * n, 50, 0.5), (300, 90, 0.9)), n / 10))
        for n in range(1, 20)
    ]

    assert {tuple(frame) for frame in ids} == {(1, 2)}


def test_ids_follow_their_boxes_whatever_the_order_of_the_rows() -> None:
    chance = random.Random(3)
    tracker = Tracker(confidence=0.3, fps=30)
    names: dict[int, set[int]] = {}

    for n in range(1, 60):
        # Every object has its own row of the picture, and its own confidence in each frame.
        rows = [(20 + 4 * n, 100 * lane, chance.uniform(0.3, 1.0)) for lane in range(6)]
        chance.shuffle(rows)
        detections = tracker.update(scene(*rows), n / 30)
        assert detections.tracker_id is not None
        np.testing.assert_array_equal(detections.xyxy, scene(*rows).xyxy)
        for (_, y, _), name in zip(rows, detections.tracker_id.tolist(), strict=True):
            names.setdefault(int(y), set()).add(name)

    assert all(len(ids) == 1 for ids in names.values())
    assert len(set.union(*names.values())) == 6


def test_every_detection_of_a_frame_has_an_id_or_none_has() -> None:
    chance = random.Random(7)
    tracker = Tracker(confidence=0.3, fps=10)
    given = 0

    for n in range(1, 200):
        boxes = [
            (chance.uniform(0, 600), chance.uniform(0, 400), chance.uniform(0.3, 1))
            for _ in range(chance.randrange(8))
        ]
        ids = tracker.update(scene(*boxes), n / 10).tracker_id
        if ids is not None:
            given += 1
            assert len(ids) == len(boxes) == len(set(ids.tolist()))
            assert all(name > 0 for name in ids.tolist())

    assert given > 190


def test_an_object_that_is_hidden_for_a_moment_keeps_its_id() -> None:
    tracker = Tracker(confidence=0.4, fps=10)
    for n in range(1, 6):
        before = tracker.update(scene((100, 100, 0.9)), n / 10).tracker_id
    tracker.update(scene(), 0.6)
    tracker.update(scene((400, 100, 0.9)), 0.7)

    after = tracker.update(scene((400, 100, 0.9), (100, 100, 0.9)), 0.8).tracker_id

    assert before is not None
    assert after is not None
    assert after.tolist() == [2, before[0]]


def test_a_weak_box_keeps_a_track_and_is_in_no_result() -> None:
    """An object that is half hidden for longer than tracks last."""
    tracker = Tracker(confidence=0.4, fps=10)
    shown = [tracker.update(scene((100 + 10 * n, 100, 0.9)), n / 10) for n in range(5)]
    weak = [tracker.update(scene((100 + 10 * n, 100, 0.2)), n / 10) for n in range(5, 25)]

    after = tracker.update(scene((350, 100, 0.9), (500, 300, 0.2)), 2.5)

    assert [len(each) for each in weak] == [0] * 20
    assert {name for each in [*shown, after] for name in tracker_ids(each)} == {1}
    assert after.xyxy.tolist() == [[350, 100, 390, 140]]


def test_an_object_that_was_gone_for_long_is_another_one() -> None:
    tracker = Tracker(confidence=0.4, fps=10)
    for n in range(1, 6):
        tracker.update(scene((100, 100, 0.9)), n / 10)

    later = tracker.update(scene((100, 100, 0.9)), 60.0).tracker_id

    assert later is not None
    assert later.tolist() == [2]


@pytest.mark.parametrize("fps", [0.0, 5.0, 30.0, 240.0])
def test_a_source_of_any_rate_is_tracked(fps: float) -> None:
    tracker = Tracker(confidence=0.4, fps=fps)

    ids = {tuple(tracker_ids(tracker.update(scene((50, 50, 0.5)), n / (fps or 30)))) for n in range(1, 10)}

    assert ids == {(1,)}


def test_a_frame_from_before_the_last_one_changes_nothing() -> None:
    tracker = Tracker(confidence=0.4, fps=10)
    for n in range(1, 4):
        tracker.update(scene((100, 100, 0.9)), n / 10)

    late = [tracker.update(scene((500, 100, 0.9)), when).tracker_id for when in (0.2, float("nan"))]
    after = tracker.update(scene((100, 100, 0.9), (500, 100, 0.9)), 0.4).tracker_id

    assert late == [None, None]
    assert after is not None
    assert after.tolist() == [1, 2]


# beside the package ---------------------------------------------------------------------------------------


def both(fps: float, moments: Iterator[moving_boxes.Moment]) -> Iterator[tuple[list[int], list[int]]]:
    """The ids that our tracker gives in each frame, and those that the package's gives."""
    trackers = Tracker(confidence=0.0, fps=fps), PackageTracker(confidence=0.0, fps=fps)
    for moment in moments:
        ids = []
        for tracker in trackers:
            tracker.retune(confidence=moment.confidence)
            found = tracker.update(moment.detections, moment.media_time).tracker_id
            ids.append([] if found is None else found.tolist())
        yield ids[0], ids[1]


@pytest.mark.parametrize("part", range(4))
def test_whatever_happens_it_decides_as_the_package_does(part: int) -> None:
    given = 0

    for seed in range(part, 80, 4):
        fps = random.Random(seed).choice((0.0, 10.0, 30.0))
        for ours, theirs in both(fps, moving_boxes.scene(seed, frames=40)):
            assert ours == theirs, f"scene {seed}"
            given += len(ours)

    assert given > 1500


@pytest.mark.parametrize("confidence", [0.1, 0.4])
def test_it_decides_as_the_package_does_about_the_detections_of_a_model(
    confidence: float, tmp_path: Path
) -> None:
    given = set()

    for ours, theirs in both(10.0, parts_on_a_belt(confidence, tmp_path)):
        assert ours == theirs
        given.update(ours)

    assert len(given) > 10


def parts_on_a_belt(confidence: float, folder: Path) -> Iterator[moving_boxes.Moment]:
    """What the demo's detector finds."""
    path = folder / "conveyor.onnx"
    path.write_bytes(conveyor_model())
    manifest = validate_model(path, "0" * 64)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    letterbox, pixels = Letterbox(manifest), np.empty((1, 3, 320, 320), np.uint8)
    blob = np.empty(pixels.shape, np.float32)
    rules = PostProcessing(confidence=confidence)
    for frame_id in range(200, 320):
        geometry = letterbox.write(ArrayPicture(draw(1, frame_id)), pixels)
        normalize(pixels, input_format_of(manifest).scale, blob)
        (output,) = session.run(None, {"images": blob})
        found = decode([output], geometry, manifest=manifest, rules=rules)
        yield moving_boxes.Moment(frame_id / 10, found, confidence)
