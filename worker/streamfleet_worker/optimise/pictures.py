"""The pictures that a variant is built and compared with, as the model takes them.

They are spread over their source. Every second one is for the ranges of activations, the others are for the
comparison, and no picture is in both.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamfleet_core.protocol.source_reference import SourceKind, kind_of, path_of
from streamfleet_core.protocol.tasks.optimisation import LEAST_FRAMES, MOST_FRAMES, MOST_PICTURES
from streamfleet_core.protocol.values import Manifest, SourceSpec
from streamfleet_worker.ipc.shared_memory import PixelArray
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.detection.letterbox import Geometry, Letterbox
from streamfleet_worker.video.frame import Picture
from streamfleet_worker.video.sources.images import SUFFIXES
from streamfleet_worker.video.sources.open_source import open_source
from streamfleet_worker.video.synthetic.conveyor import UnknownScene, draw, number_of

_APART = 7  # frames of a scene
_MOST_READ = 6000  # frames of a film: four minutes of it
_ARCHIVE = b"PK\x03\x04"  # its first bytes
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others are unpacked whole, whatever size they claim
_ROOM = 512 * 1024**2  # bytes of all pictures


class TooFewPictures(Exception):
    """A source that has not enough different pictures. The text says what was expected."""


@dataclass(frozen=True, slots=True)
class ModelPicture:
    """A picture in the size of the model's input."""

    pixels: PixelArray  # (1, 3, height, width), in the channel order of the model's family
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures in two groups that have none in common."""

    calibration: tuple[ModelPicture, ...]
    comparison: tuple[ModelPicture, ...]


def unpacked(reference: str, folder: Path) -> str:
    """Unpack a ZIP archive of pictures into a new folder in `folder`, and return that; else the reference.

    Raises: TooFewPictures, if it is too large or damaged; OSError.
    """
    if kind_of(reference) is not SourceKind.FILE or not _is_archive(Path(path_of(reference))):
        return reference
    target = folder / "pictures"
    target.mkdir()
    try:
        with zipfile.ZipFile(path_of(reference)) as archive:
            pictures = [each for each in archive.infolist() if not each.is_dir()][: 2 * MOST_FRAMES]
            if sum(each.file_size for each in pictures) > MOST_PICTURES:
                raise TooFewPictures(f"expected pictures of at most {MOST_PICTURES} bytes in all, got more")
            for number, each in enumerate(pictures):
                ending = Path(each.filename).suffix.lower()
                name = f"{number:04}{ending if ending in SUFFIXES else '.jpg'}"
                (target / name).write_bytes(_content(archive, each))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as exc:
        raise TooFewPictures(f"the archive of pictures cannot be read: {exc}") from exc
    return str(target)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of an entry, of which no more is unpacked than it says. Raises: as `zipfile` does."""
    if entry.compress_type not in _METHODS:
        raise zipfile.BadZipFile("expected pictures that are stored or deflated")
    with archive.open(entry) as file:
        content = file.read(entry.file_size)
        file.read(1)  # at its end it compares the checksum
    return content


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ARCHIVE)) == _ARCHIVE
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False


def read_pictures(
    reference: str, manifest: Manifest, frames: int, on_read: Callable[[int, int], None]
) -> Pictures:
    """Read up to twice as many pictures as `frames`. `on_read`: called with how many, of how many.

    Raises: TooFewPictures, SourceLost.
    """
    letterbox = Letterbox(manifest)
    shape = (1, 3, manifest.input_height, manifest.input_width)
    wanted = min(2 * frames, max(2 * LEAST_FRAMES, _ROOM // int(np.prod(shape))))
    found: dict[bytes, ModelPicture] = {}  # by content: a film may stand still
    for picture in _pictures_of(reference, wanted):
        pixels = np.zeros(shape, np.uint8)
        one = ModelPicture(pixels, letterbox.write(picture, pixels))
        found.setdefault(hashlib.sha256(pixels.tobytes()).digest(), one)
        on_read(len(found), wanted)
        if len(found) == wanted:
            break
    if len(found) < 2 * LEAST_FRAMES:
        raise TooFewPictures(f"expected at least {2 * LEAST_FRAMES} different pictures, got {len(found)}")
    pictures = tuple(found.values())
    return Pictures(calibration=pictures[::2], comparison=pictures[1::2])


def _pictures_of(reference: str, wanted: int) -> Iterator[Picture]:
    """Raises: TooFewPictures, SourceLost."""
    kind = kind_of(reference)
    if kind is SourceKind.SCENE:  # drawn at once: as a source it waits until each frame is due
        try:
            number = number_of(reference)
        except UnknownScene as exc:
            raise TooFewPictures(str(exc)) from exc
        yield from (ArrayPicture(draw(number, index * _APART)) for index in range(wanted))
    elif kind is SourceKind.FILE:
        with contextlib.closing(open_source(SourceSpec(reference, mode="file"), 1)) as capture:
            yield from _spread(capture, wanted)
    else:
        raise TooFewPictures("expected a film, a folder of pictures or a generated scene")


def _spread(capture: Capture, wanted: int) -> Iterator[Picture]:
    """Yield pictures from all of a film, or from its beginning if it is long. Raises: SourceLost."""
    total = min(capture.total_frames, _MOST_READ)
    step = max(1, total // wanted)
    for number in range(_MOST_READ):
        if not capture.grab():
            return
        picture = capture.retrieve() if number % step == 0 else None
        if picture is not None:
            yield picture
