"""A folder or a glob pattern of images, played as a video in the order of their names."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.sources.errors import SourceLost, shown_path

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_MOST = 1_000_000  # names
_FPS = 25.0  # frames/s, as FFmpeg plays images


class ImagesCapture(Capture):
    """The images that existed when it was opened."""

    def __init__(self, paths: list[Path], *, finite: bool) -> None:
        self.finite = finite
        self.fps = _FPS
        self.width = self.height = 0
        self.total_frames = len(paths)
        self._paths = paths
        self._index = -1
        self._image: Image | None = None

    def grab(self) -> bool:
        """Advance to the next image. Until a size is known, it is read too."""
        self._index += 1
        if self._index >= len(self._paths):
            return False
        self.media_time = self._index / self.fps
        self._image = None
        if not self.width:
            self._image = _read(self._paths[self._index])
            self.damaged = self._image is None
            if self._image is not None:
                self.height, self.width = self._image.shape[:2]
        return True

    def retrieve(self) -> Picture | None:
        """Read the image, unless it was read already."""
        if self._image is None:
            self._image = _read(self._paths[self._index])
        return None if self._image is None else ArrayPicture(self._image)

    def close(self) -> None:
        """Release the last image. No file is open between two images."""
        self._image = None


def is_pattern(path: str) -> bool:
    """Whether it is a glob pattern, and no file has exactly this name."""
    return glob.has_magic(path) and not os.path.exists(path)  # noqa: PTH110 (pathlib's raises if the name is too long)


def open_images(path: str, *, finite: bool) -> ImagesCapture:
    """Open the images of a folder or of a pattern. Raises: SourceLost."""
    # `Path.glob` does not accept absolute patterns.
    names = glob.iglob(path) if is_pattern(path) else _listed(Path(path))  # noqa: PTH207
    found = sorted(name for name in itertools.islice(names, _MOST) if Path(name).suffix.lower() in SUFFIXES)
    if not found:
        expected = f"expected images ({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))})"
        if is_pattern(path):
            raise SourceLost("not_found", f"nothing matches {shown_path(path)}: {expected}")
        raise SourceLost("invalid", f"{shown_path(path)} is a directory without an image, {expected}")
    return ImagesCapture([Path(name) for name in found], finite=finite)


def _listed(folder: Path) -> Iterable[str]:
    try:
        names = itertools.islice(folder.iterdir(), _MOST)
        return [str(each) for each in names if not each.name.startswith(".")]
    except PermissionError as exc:
        raise SourceLost("authentication", f"{shown_path(folder)} cannot be read: permission denied") from exc
    except OSError as exc:
        raise SourceLost("invalid", f"{shown_path(folder)} cannot be read: {exc.strerror}") from exc


def _read(path: Path) -> Image | None:
    if not path.is_file():  # reading a pipe could block forever
        return None
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # more pixels than OpenCV accepts
        return None
    return None if image is None else np.asarray(image, np.uint8)
