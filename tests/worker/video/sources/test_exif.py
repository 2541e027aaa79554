"""A picture file is upright however its camera was held, mirrored or not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.sources.exif import orientation_of
from streamfleet_worker.video.sources.open_source import open_source
from tests.fakes.pictures import turn

WIDTH, HEIGHT = 64, 36


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A JPEG with another colour in each quarter."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:18, :32], image[18:, :32], image[:18, 32:] = (0, 0, 255), (0, 255, 0), (255, 0, 0)
    path = tmp_path / "picture.jpg"
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_shown_as_opencv_shows_it(picture: Path, orientation: int) -> None:
    turn(picture, orientation=orientation)
    expected = cv2.imread(str(picture))
    assert expected is not None
    height, width = expected.shape[:2]

    with closing(open_source(SourceSpec(str(picture), mode="file"), 1)) as capture:
        assert capture.grab()
        shown = capture.retrieve()

    assert shown is not None
    assert (shown.width, shown.height) == (capture.width, capture.height) == (width, height)
    assert np.abs(shown.bgr().astype(int) - expected).mean() < 3
    small = shown.scaled(width // 2, height // 2)
    assert np.abs(small.astype(int) - cv2.resize(expected, (width // 2, height // 2))).mean() < 5
    corners = [shown.overview()[y, x] > 60 for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    grey = cv2.cvtColor(expected, cv2.COLOR_BGR2GRAY)
    assert corners == [grey[y, x] > 60 for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))]


def test_the_tag_may_be_in_either_order_of_bytes_and_behind_other_segments(picture: Path) -> None:
    turn(picture, orientation=5)
    content = picture.read_bytes()
    other = b"\xff\xe0\x00\x06JFIF"
    tag = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x07\0\0"
    big = b"\xff\xe1" + (len(tag) + 8).to_bytes(2, "big") + b"Exif\0\0" + tag

    assert orientation_of(content) == 5
    assert orientation_of(content[:2] + other + content[2:]) == 5
    assert orientation_of(content[:2] + big) == 7


def test_any_bytes_have_an_orientation(picture: Path) -> None:
    turn(picture, orientation=6)
    content, rng = picture.read_bytes(), np.random.default_rng(0)

    for length in range(60):
        assert orientation_of(content[:length]) in (1, 6)
    for _ in range(2000):
        damaged = bytearray(content[:80])
        damaged[int(rng.integers(2, 60))] = int(rng.integers(256))
        assert 1 <= orientation_of(bytes(damaged)) <= 8
