"""Pictures are spread over their source, and none is used both to build and to compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_core.protocol.values import Manifest, Weights
from streamfleet_worker.optimise.pictures import Pictures, TooFewPictures, read_pictures
from streamfleet_worker.video.sources.errors import SourceLost
from tests.fakes.process_harness import write_video

MANIFEST = Manifest(
    family="ultralytics", labels=("a",), input_width=64, input_height=64, weights=Weights("0" * 64, 1)
)


def read(reference: str | Path, frames: int = 8) -> Pictures:
    return read_pictures(str(reference), MANIFEST, frames, lambda *_: None)


def grey(pictures: Pictures) -> tuple[list[int], list[int]]:
    """How light the middle of each picture is, which is the number of the frame."""
    build, compare = pictures.calibration, pictures.comparison
    return (
        [int(each.pixels[0, 0, 32, 32]) for each in build],
        [int(each.pixels[0, 0, 32, 32]) for each in compare],
    )


def test_pictures_are_spread_over_a_film_and_every_second_is_for_the_comparison(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.avi", 160)

    build, compare = grey(read(film))

    assert len(build) == len(compare) == 8
    assert max(abs(got - number) for got, number in zip(build, range(0, 160, 20), strict=True)) <= 3
    assert max(abs(got - number) for got, number in zip(compare, range(10, 160, 20), strict=True)) <= 3


def test_a_picture_that_comes_again_counts_once(tmp_path: Path) -> None:
    still = write_video(tmp_path / "still.avi", 10)

    with pytest.raises(TooFewPictures, match="expected at least 16 different pictures, got 10"):
        read(still)


def test_a_generated_scene_has_enough_pictures() -> None:
    pictures = read("scene://conveyor/1")

    assert len(pictures.calibration) == len(pictures.comparison) == 8


@pytest.mark.parametrize("reference", ["rtsp://10.0.0.1/door", "pattern://"])
def test_a_camera_is_no_source_of_pictures(reference: str) -> None:
    with pytest.raises((TooFewPictures, SourceLost)):
        read(reference)


def test_a_film_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceLost, match="there is no file"):
        read(tmp_path / "film.mp4")
