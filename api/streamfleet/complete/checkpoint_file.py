"""The file of a checkpoint, which is written after each prediction and must cost little.

    first line   the checkpoint, as `Checkpoint.encode` gives it
    other lines  what has changed since, one line for each time: {"belt-1": [3, 0, 41, "edge-1"]}

After many lines the file is replaced. A process may be killed at any time: of a line that is not whole,
the file has the state before it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from streamfleet.complete.values import Checkpoint, Position

MAX_LINES = 2000  # after the first one


class CheckpointFile:
    """Writes one file. Only one process may."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None  # None: it must be replaced
        self._lines = 0

    def write(self, changed: Mapping[str, Position], whole: Callable[[], Checkpoint]) -> None:
        """Write what has changed. `whole`: all of it, if it is needed. Raises: OSError."""
        if self._file is None or self._lines >= MAX_LINES:
            self.close()
            self._begin(whole())
            return
        line = msgspec.json.encode(changed) + b"\n"
        self._lines += 1
        try:
            is_whole = os.write(self._file, line) == len(line)
        except OSError:
            self.close()
            raise
        if not is_whole:  # the disk is full; nothing can follow half a line
            self.close()
            self._begin(whole())

    def close(self) -> None:
        """Close it. It may be written again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _begin(self, checkpoint: Checkpoint) -> None:
        """Replace the file: it has either the old or the new content at any time."""
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            content = checkpoint.encode().encode() + b"\n"
            while content:
                content = content[os.write(file, content) :]
            draft.replace(self._path)
        except OSError:
            os.close(file)
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        self._file, self._lines = file, 0
