"""The trackers of the package `trackers`, with the interface of ours."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.values import TRACKERS, Tracker
from streamfleet_worker.video.detection.package_tracker import PackageTracker, package_problem
from streamfleet_worker.video.detection.trackers import tracker_of
from tests.fakes.detections_columns import tracker_ids
from tests.fakes.moving_boxes import scene

OF_PACKAGE = [name for name in TRACKERS if name != "bytetrack"]


def boxes(*corners: tuple[float, ...], confidence: float = 0.9) -> sv.Detections:
    """Boxes of 40 x 20 pixels at these places."""
    xyxy = np.array([[x, y, x + 40, y + 20] for x, y in corners], np.float32).reshape(-1, 4)
    return sv.Detections(
        xyxy=xyxy,
        confidence=np.full(len(xyxy), confidence, np.float32),
        class_id=np.zeros(len(xyxy), np.int64),
        data={"masks": np.array([f"mask at {x}" for x, _ in corners], object)},
    )


@pytest.mark.parametrize("name", TRACKERS)
def test_an_object_has_its_id_from_its_first_frame_on_and_rows_keep_their_places(name: Tracker) -> None:
    tracker = tracker_of(name, confidence=0.4, fps=25.0)

    seen = []
    for step in range(20):
        places = [(100.0 + 3 * step, 50.0), (600.0 - 3 * step, 400.0)]
        if step >= 10:
            places.append((300.0, 200.0 + 2 * step))
        order = places if step % 2 else places[::-1]
        found = tracker.update(boxes(*order), step / 25)
        ids = dict(zip(order, tracker_ids(found).tolist(), strict=True))
        seen.append([ids[place] for place in places])
        assert list(found.data["masks"]) == [f"mask at {x}" for x, _ in order]
        np.testing.assert_array_equal(found.xyxy[:, 0], [x for x, _ in order])

    assert tracker.name == name
    assert {tuple(sorted(ids)) for ids in seen[:10]} == {(1, 2)}
    assert len({tuple(ids) for ids in seen[:10]}) == 1
    assert {tuple(ids) for ids in seen[10:]} == {(*seen[0], 3)}


@pytest.mark.parametrize("name", TRACKERS)
def test_all_rows_have_an_id_or_none_has(name: Tracker) -> None:
    for seed in range(12):
        tracker, used = tracker_of(name, confidence=0.4, fps=0.0), 0
        for moment in scene(seed, 60):
            tracker.retune(confidence=moment.confidence)
            found = tracker.update(moment.detections, moment.media_time)
            if found.tracker_id is not None:
                ids = tracker_ids(found).tolist()
                assert len(ids) == len(found) == len(set(ids))
                assert all(each > 0 for each in ids)
                used = max([used, *ids])
        assert used < 4000


@pytest.mark.parametrize("name", TRACKERS)
def test_a_frame_from_before_the_last_one_gets_no_ids_and_changes_nothing(name: Tracker) -> None:
    tracker = tracker_of(name, confidence=0.4, fps=25.0)
    for step in range(5):
        tracker.update(boxes((100.0, 50.0)), 10 + step / 25)

    late = [tracker.update(boxes((900.0, 50.0)), at).tracker_id for at in (3.0, float("nan"), float("inf"))]
    same_time = tracker.update(boxes((100.0, 50.0)), 10 + 4 / 25)
    after = tracker.update(boxes((100.0, 50.0)), 10 + 5 / 25)

    assert late == [None] * 3
    assert tracker_ids(same_time).tolist() == tracker_ids(after).tolist() == [1]


@pytest.mark.parametrize("name", OF_PACKAGE)
def test_an_object_that_is_not_sure_enough_starts_no_track(name: Tracker) -> None:
    tracker = tracker_of(name, confidence=0.6, fps=25.0)

    unsure = tracker.update(boxes((100.0, 50.0), confidence=0.5), 0.0)
    tracker.retune(confidence=0.4)
    sure = tracker.update(boxes((100.0, 50.0), confidence=0.5), 0.04)

    assert unsure.tracker_id is None
    assert tracker_ids(sure).tolist() == [1]


@pytest.mark.parametrize("name", OF_PACKAGE)
def test_a_tracker_that_fails_begins_again_with_new_ids(name: Tracker) -> None:
    tracker = PackageTracker(name, confidence=0.4, fps=25.0)
    tracker.update(boxes((100.0, 50.0)), 0.0)
    impossible = boxes((100.0, 50.0))
    impossible.xyxy[0] = np.nan

    with np.errstate(all="ignore"):
        tracker.update(impossible, 0.04)
    again = [tracker.update(boxes((100.0, 50.0)), at) for at in (1.2, 1.24)]

    assert [len(tracker_ids(found)) for found in again] == [1, 1]
    assert len({tracker_ids(found)[0] for found in again}) == 1


def test_a_missing_package_is_a_problem_of_its_trackers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [package_problem(name) for name in (None, *TRACKERS)] == [""] * 6

    monkeypatch.setitem(sys.modules, "trackers", None)

    assert package_problem("bytetrack") == ""
    assert "expected the package trackers of version 2.6 or later for sort" in package_problem("sort")
