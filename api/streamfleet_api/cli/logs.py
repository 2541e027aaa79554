"""The logs of all processes on one machine, merged by time and followed as they grow.

Of a long file only the end is read at first. One that was truncated or replaced is read from its beginning.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FIRST = 4 * 1024**2  # bytes of each file that are looked at first, from its end

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d{3}")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log. A line without a time, as in a traceback, has that of the previous line."""

    at: str  # as it was written; "" when nothing before it has one either
    part: str
    text: str


def merged(of_parts: Iterable[list[LogLine]]) -> list[LogLine]:
    """Merge lines by time, and keep the order within each log. Pure."""
    return list(heapq.merge(*of_parts, key=lambda line: line.at))


def last_lines(lines: list[LogLine], count: int) -> list[LogLine]:
    """The last of them. Pure."""
    return lines[len(lines) - min(count, len(lines)) :]


class Reader:
    """The logs of a folder, or of some processes. Each `read` returns new lines."""

    def __init__(self, folder: Path, parts: Collection[str] = (), *, first: int = FIRST) -> None:
        self._folder = folder
        self._parts = parts
        self._first = first
        self._files: dict[str, _File] | None = None  # None: nothing was read yet

    def read(self) -> list[LogLine]:
        """The lines written since the last call, by time. Raises: OSError."""
        known = {} if self._files is None else self._files
        for path in sorted(self._folder.glob("*.log")):
            if path.stem not in known and (not self._parts or path.stem in self._parts):
                with contextlib.suppress(FileNotFoundError):  # it is being replaced
                    known[path.stem] = _File(path, most=self._first if self._files is None else None)
        self._files = known
        return merged([list(file.read()) for file in known.values()])

    def close(self) -> None:
        """Leave the files."""
        for file in (self._files or {}).values():
            file.close()


class _File:
    """One log file and the position of the reader. It may be truncated or replaced."""

    def __init__(self, path: Path, *, most: int | None) -> None:
        self._path = path
        self._file = path.open("rb")
        self._rest = b""  # of a line that has no end yet
        self._at = ""
        if most is not None and _size(self._file) > most:
            self._file.seek(-most, os.SEEK_END)
            self._file.readline()  # which began before

    def read(self) -> Iterator[LogLine]:
        """The lines that are new and whole."""
        *lines, self._rest = (self._rest + self._new()).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r").expandtabs()
            found = _TIME.match(text)
            self._at = found[0] if found else self._at
            yield LogLine(self._at, self._path.stem, text)

    def close(self) -> None:
        """Leave it."""
        self._file.close()

    def _new(self) -> bytes:
        if _size(self._file) < self._file.tell():  # it was truncated
            self._begin()
        new = self._file.read()
        if self._is_replaced():
            with contextlib.suppress(FileNotFoundError):  # again
                successor = self._path.open("rb")
                self._file.close()
                self._file = successor
                new += self._file.read()
        return new

    def _begin(self) -> None:
        self._file.seek(0)
        self._rest = b""

    def _is_replaced(self) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False  # not yet


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size
