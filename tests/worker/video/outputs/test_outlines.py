"""Outlines have few enough points, and stay close to their masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.outputs.outlines import outline_of, simplified
from tests.fakes.findings import blob


def filled(points: np.ndarray) -> np.ndarray:
    """The pixels within."""
    picture = np.zeros((1080, 1920), np.uint8)
    cv2.fillPoly(picture, [points], (1,))
    return picture.astype(np.bool_)


@pytest.mark.parametrize(("most", "least_shared"), [(512, 0.99), (60, 0.97), (12, 0.6), (3, 0.1), (0, 0.1)])
def test_it_has_at_most_so_many_points_and_stays_close(most: int, least_shared: float) -> None:
    mask = blob(100, 200, 800, 700)

    points = outline_of(mask, most)

    whole, coarse = filled(mask.polygon()), filled(points)
    assert 3 <= len(points) <= max(3, most)
    assert (whole & coarse).sum() / (whole | coarse).sum() > least_shared


def test_the_largest_part_is_outlined_in_pixels_of_the_frame() -> None:
    bits = np.zeros((50, 60), np.uint8)
    bits[2:5, 2:5] = 1
    bits[20:40, 10:50] = 1

    points = outline_of(BoxMask(100, 200, bits), 512)

    assert points.min(axis=0).tolist() == [110, 220]
    assert points.max(axis=0).tolist() == [149, 239]


def test_nothing_has_no_outline() -> None:
    assert outline_of(BoxMask(3, 4, np.zeros((5, 5), np.uint8)), 512).shape == (0, 2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12])
def test_few_points_are_left_as_they_are(count: int) -> None:
    points = np.random.default_rng(3).integers(0, 100, (count, 2)).astype(np.int32)

    np.testing.assert_array_equal(simplified(points, 12), points)


def test_points_on_one_line_stay_a_polygon() -> None:
    points = np.stack([np.arange(1000), np.arange(1000)], axis=1).astype(np.int32)

    assert 3 <= len(simplified(points, 20)) <= 20
