"""Pictures are spread over their source, and none is used both to build and to compare."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from streamfleet_core.protocol.values import Manifest, Weights
from streamfleet_worker.optimise import pictures
from streamfleet_worker.optimise.pictures import Pictures, TooFewPictures, read_pictures, unpacked
from streamfleet_worker.video.sources.errors import SourceLost
from tests.fakes.process_harness import write_video

MANIFEST = Manifest(
    family="ultralytics", labels=("a",), input_width=64, input_height=64, weights=Weights("0" * 64, 1)
)


def read(reference: str | Path, frames: int = 8) -> Pictures:
    return read_pictures(str(reference), MANIFEST, frames, lambda *_: None)


def grey(found: Pictures) -> tuple[list[int], list[int]]:
    """How light the middle of each picture is, which is the number of the frame."""
    build, compare = found.calibration, found.comparison
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
    found = read("scene://conveyor/1")

    assert len(found.calibration) == len(found.comparison) == 8


@pytest.mark.parametrize("reference", ["rtsp://10.0.0.1/door", "pattern://"])
def test_a_camera_is_no_source_of_pictures(reference: str) -> None:
    with pytest.raises((TooFewPictures, SourceLost)):
        read(reference)


def test_a_film_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceLost, match="there is no file"):
        read(tmp_path / "film.mp4")


# archives -------------------------------------------------------------------------------------------------


def archive(path: Path, entries: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return str(path)


def test_an_archive_is_unpacked_by_number_whatever_its_names_say(tmp_path: Path) -> None:
    packed = archive(
        tmp_path / "blob", {"../../etc/a.PNG": b"1", "b.exe": b"2", "folder/": b"", "/c.jpg": b"3"}
    )

    folder = Path(unpacked(packed, tmp_path))

    assert folder == tmp_path / "pictures"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "0000.png": b"1",
        "0001.jpg": b"2",
        "0002.jpg": b"3",
    }


def test_what_is_no_archive_stays(tmp_path: Path) -> None:
    film = str(write_video(tmp_path / "film.avi", 2))

    assert [unpacked(each, tmp_path) for each in (film, str(tmp_path), "scene://conveyor/1", "/nowhere")] == [
        *(film, str(tmp_path), "scene://conveyor/1", "/nowhere"),
    ]


def test_an_archive_that_would_fill_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_PICTURES", 1000)
    bomb = tmp_path / "blob"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", bytes(1001))

    with pytest.raises(TooFewPictures, match="expected pictures of at most 1000 bytes in all, got more"):
        unpacked(str(bomb), tmp_path)
    assert list((tmp_path / "pictures").iterdir()) == []


def claiming(path: Path, size: int, method: int = zipfile.ZIP_DEFLATED) -> str:
    """An archive of 32 MB of zeros that claims another size."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.jpg", bytes(32 * 1024**2))
        (entry,) = file.infolist()
        true, entry.file_size = entry.file_size, size
    content = path.read_bytes()
    path.write_bytes(content.replace(true.to_bytes(4, "little"), size.to_bytes(4, "little")))
    return str(path)


@pytest.mark.parametrize("size", [0, 100])
def test_no_more_of_an_entry_is_unpacked_than_it_claims(tmp_path: Path, size: int) -> None:
    bomb = claiming(tmp_path / "blob", size)

    tracemalloc.start()
    with pytest.raises(TooFewPictures, match="the archive of pictures cannot be read"):
        unpacked(bomb, tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 4 * 1024**2


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_unpacks_whole_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(TooFewPictures, match="expected pictures that are stored or deflated"):
        unpacked(claiming(tmp_path / "blob", 100, method), tmp_path)


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    damaged = tmp_path / "blob"
    damaged.write_bytes(Path(archive(tmp_path / "whole", {"a.jpg": bytes(100)})).read_bytes()[:90])

    with pytest.raises(TooFewPictures, match="the archive of pictures cannot be read"):
        unpacked(str(damaged), tmp_path)
