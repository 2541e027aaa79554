"""Records the version of a store in a file beside it, so that a store that lost its end is detected.

    <folder>/store.version    two slots of 512 bytes, written in turn, each with a checksum

A mark is written after its commit, so it may be older than the store but never newer. The file never grows,
as the disk may be full; an interrupted write leaves the previous mark intact.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamfleet_core.protocol.json_text import decode_json
from streamfleet_core.runtime.private_file import write_private
from streamfleet_core.runtime.small_file import read_small

_SLOT = 512  # bytes
_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """The version of a store."""

    cluster: str  # the identity of the store
    version: int  # number of transactions
    rows: int


class VersionMarker:
    """The file of one data directory. Only the owner of the store may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1  # until a mark is written

    def read(self) -> Mark | None:
        """Read the latest mark; None without a file. Raises: OSError, ValueError for a damaged file."""
        try:
            content = read_small(self.path)
        except FileNotFoundError:
            return None
        slots = [content[index * _SLOT : (index + 1) * _SLOT] for index in range(_SLOTS)]
        marks = [mark for mark in map(_decode, slots) if mark is not None]
        if not marks:
            raise ValueError(f"{self.path} is damaged")
        return max(marks, key=lambda mark: mark.version)

    def write(self, mark: Mark) -> None:
        """Write a mark. Raises: OSError."""
        if self._descriptor < 0:
            if not self.path.exists():
                write_private(self.path, _encode(mark) * _SLOTS)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        os.pwrite(self._descriptor, _encode(mark), mark.version % _SLOTS * _SLOT)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _encode(mark: Mark) -> bytes:
    content = msgspec.json.encode(mark)
    return b"%08x %s" % (zlib.crc32(content), content.ljust(_SLOT - 10)) + b"\n"


def _decode(slot: bytes) -> Mark | None:
    """Decode a slot; None if it is damaged."""
    checksum, _, content = slot.partition(b" ")
    content = content.rstrip()
    if checksum != b"%08x" % zlib.crc32(content):
        return None
    return decode_json(content, Mark)
