"""Files by their content."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator
from pathlib import Path

_PIECE = 262_144  # bytes

Told = Callable[[int, int | None], None]  # gets how many bytes have passed, and how many there are, if known


def untold(_passed: int, _total: int | None) -> None:
    """Nobody looks."""


def digest_of(path: Path, told: Told = untold) -> str:
    """The sha256 of a file. It blocks. Raises: OSError."""
    digest = hashlib.sha256()
    with contextlib.closing(pieces_of(path, told)) as pieces:
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def pieces_of(path: Path, told: Told = untold) -> Generator[bytes, None, None]:
    """A file from its beginning to its end. A piece has passed when the next one is asked for."""
    total, passed = path.stat().st_size, 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
            passed += len(piece)
            told(passed, total)
