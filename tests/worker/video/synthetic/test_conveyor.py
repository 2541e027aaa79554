"""Generated scenes: the same each time, true about themselves, and moving."""

from __future__ import annotations

import numpy as np
import pytest

from streamfleet_worker.video.synthetic.belt import LENGTH
from streamfleet_worker.video.synthetic.conveyor import (
    FPS,
    HEIGHT,
    WIDTH,
    Scene,
    SceneCapture,
    UnknownScene,
    draw,
    number_of,
    truth,
)
from streamfleet_worker.video.synthetic.parts import LABELS


def test_a_picture_depends_on_its_number_and_frame_alone() -> None:
    first = draw(901, 77).copy()
    draw(901, 5000)
    another = Scene(901)
    another.draw(3)

    again = another.draw(77)

    assert again.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(again, first)
    assert np.any(draw(901, 78) != first)
    assert np.any(draw(902, 77) != first)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 901])
def test_the_truth_lies_in_the_picture_and_comes_round_with_the_belt(number: int) -> None:
    seen = set()
    for frame_id in range(1, 400, 20):
        boxes, class_ids = truth(number, frame_id)

        assert boxes.dtype == np.float32
        assert boxes.shape == (len(class_ids), 4)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (WIDTH, HEIGHT)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 5).all()
        seen.update(class_ids.tolist())
    assert seen == set(range(len(LABELS)))


def test_a_box_moves_with_the_belt() -> None:
    """Number 903 has neither gantry nor hand: what is wholly in both pictures has moved alike."""
    scene = Scene(903)
    (earlier, _), (later, _) = scene.truth(100), scene.truth(101)

    shifts = [box - earlier for box in later]

    same = [shift[np.abs(shift).sum(axis=1) < 40] for shift in shifts]
    ways = {tuple(row) for shift in same for row in shift.tolist() if row[0] == row[2]}
    assert len(ways) == 1
    [(x, y, *_)] = ways
    assert 3 <= abs(x) + abs(y) <= 8


def test_the_loop_of_a_belt_has_no_seam() -> None:
    scene = Scene(901)
    steps = np.abs(np.diff([scene.truth(frame_id)[0].shape[0] for frame_id in range(LENGTH // 3)]))

    assert steps.max() <= 4


def test_a_capture_plays_live_from_its_first_frame() -> None:
    capture = SceneCapture(2, 41)

    for frame_id in (41, 42):
        assert capture.grab()
        picture = capture.retrieve()
        assert picture is not None
        np.testing.assert_array_equal(picture.bgr(), draw(2, frame_id))
    capture.close()

    assert (capture.finite, capture.fps) == (False, FPS)


@pytest.mark.parametrize(
    "reference", ["scene://conveyor/0", "scene://conveyor", "scene://beach/1", "scene://conveyor/x"]
)
def test_a_scene_that_is_none_is_told(reference: str) -> None:
    with pytest.raises(UnknownScene, match=r"expected scene://conveyor/1 .*, got scene://"):
        number_of(reference)


def test_a_scene_is_named_by_its_number() -> None:
    assert number_of("scene://conveyor/901") == 901
