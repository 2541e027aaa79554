"""Small files of the kernel, such as those in /sys. What cannot be read is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_LONGEST = 4096  # bytes


def text(path: Path) -> str:
    """The content without white space around it; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST).decode("ascii", "replace").strip("\0 \n\t")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The integer in a file; None if there is none."""
    try:
        return int(text(path))
    except ValueError:
        return None


def matching(folder: Path, pattern: str) -> Iterator[Path]:
    """The paths in a folder that match, in order; none if it cannot be read."""
    try:
        yield from sorted(folder.glob(pattern))
    except OSError:
        return
