"""Digests of files."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator
from pathlib import Path

_PIECE = 262_144  # bytes

OnProgress = Callable[[int, int | None], None]  # called with the bytes done, and the total if it is known


def ignore_progress(_passed: int, _total: int | None) -> None:
    """Report no progress."""


def digest_of(path: Path, on_progress: OnProgress = ignore_progress) -> str:
    """Compute the sha256 of a file. It blocks. Raises: OSError."""
    digest = hashlib.sha256()
    with contextlib.closing(pieces_of(path, on_progress)) as pieces:
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def pieces_of(path: Path, on_progress: OnProgress = ignore_progress) -> Generator[bytes, None, None]:
    """Read a file in pieces. A piece counts as done when the next one is requested."""
    total, passed = path.stat().st_size, 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
            passed += len(piece)
            on_progress(passed, total)
