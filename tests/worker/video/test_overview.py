"""The overview of a picture: the mean brightness of what lies in each cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.overview import COLUMNS, ROWS, overview_of

sizes = st.tuples(st.integers(1, 600), st.integers(1, 600))


@given(sizes, st.integers(0, 255), st.booleans())
def test_an_even_picture_has_an_even_overview_of_bounded_size(
    size: tuple[int, int], level: int, sideways: bool
) -> None:
    overview = overview_of(np.full(size, level, np.uint8), sideways=sideways)

    columns, rows = (ROWS, COLUMNS) if sideways else (COLUMNS, ROWS)
    assert min(size[0], rows) <= overview.shape[0] < 2 * rows
    assert min(size[1], columns) <= overview.shape[1] < 2 * columns
    assert overview.dtype == np.uint8
    assert (overview == level).all()


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (576, 768), (720, 1280), (72, 128), (101, 333)])
def test_a_change_is_seen_in_its_cell(height: int, width: int) -> None:
    down, across = height // ROWS or 1, width // COLUMNS or 1
    plane = np.zeros((height, width), np.uint8)
    plane[10 * down : 11 * down, 20 * across : 21 * across] = 200

    overview = overview_of(plane)

    assert overview[10, 20] == 200
    assert np.count_nonzero(overview) == 1


def test_brightness_is_the_same_in_all_formats() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (144, 256), np.uint8)
    picture = np.repeat(grey[:, :, None], 3, axis=2)

    of_plane = overview_of(grey).astype(int)

    assert np.abs(overview_of(grey.astype(np.uint16) * 4) - of_plane).max() <= 1
    assert np.abs(ArrayPicture(picture).overview() - of_plane).max() <= 1
