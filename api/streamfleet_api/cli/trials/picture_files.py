"""Picture files: which suffixes they have, the pictures of a folder, and names for those that are written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from streamfleet_api.client.errors import CommandFailed

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_MOST = 1_000_000  # names of a folder that are read


def is_picture(file: Path) -> bool:
    """Whether it is a picture, and not a film."""
    return file.suffix.lower() in SUFFIXES


def pictures_in(folder: Path, most: int) -> list[Path]:
    """The first pictures of a folder, or of an exported dataset, by name. Raises: CommandFailed."""
    images = folder / "images"
    where = images if images.is_dir() else folder
    try:
        names = itertools.islice(where.iterdir(), _MOST)
        found = sorted(path for path in names if is_picture(path) and not path.name.startswith("."))
    except OSError as exc:
        raise CommandFailed(f"{where}: {exc.strerror}") from exc
    if not found:
        raise CommandFailed(f"{where}: expected pictures ({', '.join(sorted(SUFFIXES))}), got none")
    return found[:most]


def unique_stems(files: Iterable[Path]) -> list[str]:
    """A name without suffix for each file; those that are the same in other folders get a number."""
    stems: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem, number = file.stem, 1
        while stem in taken:
            number += 1
            stem = f"{file.stem}-{number}"
        taken.add(stem)
        stems.append(stem)
    return stems


def found_name(stem: str, frame: int | None = None) -> str:
    """The name of the picture with what was found. It never is the name of the file itself."""
    return f"{stem}-found.jpg" if frame is None else f"{stem}-{frame:05}-found.jpg"
