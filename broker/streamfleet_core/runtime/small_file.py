"""Small files, such as keys, tokens and settings: read up to a limit, so that none fills the memory."""

from __future__ import annotations

import errno
from pathlib import Path

MAX_SMALL = 65_536  # bytes


class FileTooLarge(OSError):
    """A file with more bytes than a small file has."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(errno.EFBIG, f"expected at most {most} bytes, got more", str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def read_small(path: Path, *, most: int = MAX_SMALL) -> bytes:
    """Read a file of at most so many bytes. Raises: OSError, FileTooLarge."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise FileTooLarge(path, most)
    return content
