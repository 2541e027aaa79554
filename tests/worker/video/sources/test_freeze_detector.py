"""A live picture that does not change at all is noticed, and one that moves is not blamed."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest

from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.sources.freeze_detector import FreezeDetector, checksum
from streamfleet_worker.video.synthetic import test_pattern


def look_at(detector: FreezeDetector, checksums: list[int], *, start: float, every: float = 0.5) -> float:
    """The time of the last look."""
    now = start
    for number, seen in enumerate(checksums):
        now = start + number * every
        assert detector.due(now)
        detector.update(seen, now)
    return now


def test_what_has_not_changed_for_ten_seconds_stands_still() -> None:
    detector = FreezeDetector()

    now = look_at(detector, [7] * 20, start=100.0)
    soon = detector.frozen_for(now)
    now = look_at(detector, [7] * 5, start=110.0)

    assert soon is None
    assert detector.frozen_for(now) == 12.0


def test_one_change_is_enough_to_move() -> None:
    detector = FreezeDetector()
    now = look_at(detector, [7] * 30, start=100.0)
    still = detector.frozen_for(now)

    detector.update(8, now + 0.5)
    moves = detector.frozen_for(now + 0.5)
    now = look_at(detector, [8] * 21, start=now + 1)

    assert still == 14.5
    assert moves is None
    assert detector.frozen_for(now) == 10.5


def test_nobody_knows_whether_a_source_stands_still_that_gives_no_picture() -> None:
    detector = FreezeDetector()
    now = look_at(detector, [7] * 30, start=100.0)

    gone = detector.frozen_for(now + 6.5)
    now = look_at(detector, [7] * 10, start=now + 60)

    assert gone is None
    assert detector.frozen_for(now) is None


def test_it_looks_at_most_twice_a_second() -> None:
    detector = FreezeDetector()
    looks = 0

    for number in range(300):  # ten seconds of 30 frames
        if detector.due(number / 30):
            detector.update(number, number / 30)
            looks += 1

    assert looks == 20


@pytest.mark.parametrize("size", [(1080, 1920), (48, 64), (1, 1), (33, 5000)])
def test_a_checksum_tells_pictures_apart(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    noisy = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)

    assert checksum(ArrayPicture(image)) == checksum(ArrayPicture(image.copy()))
    assert checksum(ArrayPicture(image)) != checksum(ArrayPicture(noisy))


def test_the_test_pattern_moves() -> None:
    checksums = [checksum(ArrayPicture(test_pattern.draw(frame_id))) for frame_id in range(1, 60)]

    assert all(one != next_ for one, next_ in pairwise(checksums))


def test_a_look_costs_next_to_nothing() -> None:
    picture = ArrayPicture(test_pattern.draw(1))
    durations = []

    for _ in range(50):
        began = time.thread_time()
        checksum(picture)
        durations.append(time.thread_time() - began)

    assert sorted(durations)[25] < 0.001  # of this thread: 20 times what it takes, for slow machines
