"""The motion gate: what counts as motion, and for how long a source may stand still."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.protocol.values import Motion, Region
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.motion_gate import MotionGate, mask_of, threshold_of

ROWS, COLUMNS = 72, 128
LEFT: Region = ((0.0, 0.0), (0.4, 0.0), (0.4, 1.0), (0.0, 1.0))


def scene(level: int = 100) -> Image:
    """A picture with some structure, without noise."""
    gradient = np.linspace(-60, 60, COLUMNS)[None, :] + np.linspace(-20, 20, ROWS)[:, None]
    return (level + gradient).clip(0, 255).astype(np.uint8)


def changed(picture: Image, by: float, *, row: int = 30, column: int = 60, size: int = 4) -> Image:
    """The same with a square that is lighter or darker by so many levels."""
    other = picture.astype(np.float64)
    other[row : row + size, column : column + size] += by
    return other.clip(0, 255).astype(np.uint8)


def gate(picture: Image, *, region: Region | None = None, **rule: float) -> MotionGate:
    """A gate whose last inferred frame is this picture at 0 s."""
    made = MotionGate()
    made.use(Motion(**rule), region)
    assert not made.is_still(picture, 0.0)
    made.inferred(picture, 0.0)
    return made


def test_the_same_picture_is_still_and_a_changed_one_is_not() -> None:
    opened = gate(scene())

    assert opened.is_still(scene(), 0.1)
    assert not opened.is_still(changed(scene(), 60), 0.2)
    assert opened.is_still(scene(), 0.3), "it is compared with what was inferred"


def test_what_creeps_is_motion_when_it_has_moved_far_enough() -> None:
    opened = gate(changed(scene(), 50, column=60))

    steps = [opened.is_still(changed(scene(), 50, column=60 + step // 10), 0.1) for step in range(40)]

    assert steps[:10] == [True] * 10
    assert steps[10:] == [False] * 30


def test_what_has_stopped_is_still_as_soon_as_it_was_inferred() -> None:
    opened, there = gate(scene()), changed(scene(), 60)

    assert not opened.is_still(there, 0.1)
    opened.inferred(there, 0.1)

    assert opened.is_still(there, 0.2)


@given(st.integers(-8, 8))
def test_light_that_changes_slowly_is_no_motion(by: int) -> None:
    assert gate(scene()).is_still(scene(100 + by), 0.1)


@pytest.mark.parametrize("by", [-60, -30, 30, 60])
def test_light_that_is_switched_is_motion(by: int) -> None:
    assert not gate(scene()).is_still(scene(100 + by), 0.1)


@given(st.floats(0, 6), st.integers(0, 2**32 - 1))
def test_noise_of_the_camera_is_no_motion(deviation: float, seed: int) -> None:
    chance = np.random.default_rng(seed)

    def noisy() -> Image:
        return (scene() + chance.normal(0, deviation, (ROWS, COLUMNS))).clip(0, 255).astype(np.uint8)

    learnt = gate(noisy())
    for number in range(30):
        learnt.is_still(noisy(), number * 0.01)

    assert sum(learnt.is_still(noisy(), 0.5 + number * 0.01) for number in range(20)) >= 19
    assert not learnt.is_still(changed(noisy(), 130), 0.9)


def test_only_what_changes_in_the_region_is_motion() -> None:
    clock = changed(scene(), 90, row=0, column=100, size=8)

    assert gate(scene(), region=LEFT).is_still(clock, 0.1)
    assert not gate(scene()).is_still(clock, 0.1)
    assert not gate(scene(), region=LEFT).is_still(changed(scene(), 90, column=20), 0.1)


def test_a_frame_is_inferred_after_the_longest_time_without_motion() -> None:
    opened = gate(scene(), max_still=3.0)

    assert [opened.is_still(scene(), at) for at in (1.0, 2.9, 3.0, 3.1)] == [True, True, False, False]
    opened.inferred(scene(), 3.1)
    assert opened.is_still(scene(), 6.0)


def test_a_frame_is_inferred_each_second_while_a_client_watches() -> None:
    opened = gate(scene())
    opened.watch(True)

    assert [opened.is_still(scene(), at) for at in (0.9, 1.0)] == [True, False]
    opened.watch(False)
    assert opened.is_still(scene(), 1.1)


@pytest.mark.parametrize("event", ["rule", "forgotten", "size", "clock", "off"])
def test_a_frame_is_inferred_if_the_last_predictions_say_nothing_about_it(event: str) -> None:
    opened, picture, at = gate(scene()), scene(), 0.1
    if event == "rule":
        opened.use(Motion(), LEFT)
    elif event == "forgotten":
        opened.forget()
    elif event == "size":
        picture = np.repeat(scene(), 2, axis=0)
    elif event == "clock":
        at = -5.0
    else:
        opened.use(None, None)

    assert not opened.is_still(picture, at)


def test_the_time_of_skipped_frames_is_counted() -> None:
    opened = gate(scene())

    for at in (0.5, 1.0, 2.0):
        opened.is_still(scene(), at)
    opened.is_still(changed(scene(), 60), 2.5)
    opened.inferred(changed(scene(), 60), 2.5)
    opened.is_still(changed(scene(), 60), 2.75)

    assert opened.skipped == pytest.approx(2.25)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.01, 2)), max_size=40),
    st.floats(0.05, 5),
)
def test_no_two_inferences_are_further_apart_than_the_longest_time_and_one_frame(
    frames: list[tuple[bool, float]], max_still: float
) -> None:
    opened, at, last = gate(scene(), max_still=max_still), 0.0, 0.0
    for moves, interval in frames:
        at += interval
        picture = changed(scene(), 60) if moves else scene()
        if opened.is_still(picture, at):
            assert at - last < max_still
        else:
            opened.inferred(picture, at)
            last = at


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 300), st.floats(0, 300))
def test_more_sensitivity_or_less_noise_never_raises_the_threshold(
    one: float, other: float, noise: float, more: float
) -> None:
    faint, strong = max(one, other), min(one, other)
    quiet, loud = min(noise, more), max(noise, more)

    assert 4.0 <= threshold_of(faint, quiet) <= threshold_of(strong, quiet) + 1e-9
    assert threshold_of(one, quiet) <= threshold_of(one, loud) <= 120.0


parts = st.floats(0, 1)


@given(st.lists(st.tuples(parts, parts), min_size=3, max_size=32))
def test_a_region_has_at_least_one_cell_and_the_whole_frame_has_all(
    region: list[tuple[float, float]],
) -> None:
    assert mask_of(tuple(region), rows=ROWS, columns=COLUMNS).any()
    assert mask_of(((0, 0), (1, 0), (1, 1), (0, 1)), rows=ROWS, columns=COLUMNS).all()
