"""A dataset as a ZIP of COCO, made while it is sent: no more than one picture of it is in memory.

The annotations come last, as only then it is known which pictures were still there.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from streamfleet_core.datasets.coco import ANNOTATIONS, IMAGES, Coco, file_name
from streamfleet_core.datasets.picked_sample import Sample

_CHUNK = 262_144  # bytes that are sent at once, at least


def zipped(samples: Iterable[tuple[Sample, bytes]], beside: Path) -> Iterator[bytes]:
    """The ZIP in pieces. What it has to remember meanwhile is in a file without a name in that folder.

    It blocks. Raises: OSError.
    """
    out = _Pieces()
    with _Annotations(beside) as annotations:
        with zipfile.ZipFile(cast(IO[bytes], out), "w") as archive:
            for sample, image in samples:
                annotations.add(sample)
                archive.writestr(_entry(f"{IMAGES}/{file_name(sample)}", sample.captured_at), image)
                if out.size >= _CHUNK:
                    yield out.take()
            entry = _entry(ANNOTATIONS, time.time())
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                for piece in annotations.document():
                    file.write(piece)
                    if out.size >= _CHUNK:
                        yield out.take()
        yield out.take()


class _Pieces:
    """Collects what a ZipFile writes, until it is taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        self.size += len(piece)
        return len(piece)

    def flush(self) -> None:
        """There is nowhere to."""

    def take(self) -> bytes:
        pieces, self._pieces, self.size = self._pieces, [], 0
        return b"".join(pieces)


class _Annotations:
    """The document of COCO, of which the long lists grow on the disk."""

    def __init__(self, beside: Path) -> None:
        self._coco = Coco()
        self._images = _List(beside)
        self._annotations = _List(beside)

    def __enter__(self) -> _Annotations:
        return self

    def __exit__(self, *_: object) -> None:
        self._images.close()
        self._annotations.close()

    def add(self, sample: Sample) -> None:
        image, annotations = self._coco.add(sample)
        self._images.add(image)
        for annotation in annotations:
            self._annotations.add(annotation)

    def document(self) -> Iterator[bytes]:
        yield b'{"info":{"description":"samples of Streamfleet"},"licenses":[],"categories":'
        yield msgspec.json.encode(self._coco.categories())
        yield b',"images":'
        yield from self._images.pieces()
        yield b',"annotations":'
        yield from self._annotations.pieces()
        yield b"}"


class _List:
    """A JSON list in a temporary file."""

    def __init__(self, beside: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=beside)  # noqa: SIM115 - closed by its owner
        self._next = b"["

    def add(self, value: Any) -> None:
        self._file.write(self._next + msgspec.json.encode(value))
        self._next = b",\n"

    def pieces(self) -> Iterator[bytes]:
        if self._next == b"[":
            yield b"["
        self._file.seek(0)
        while piece := self._file.read(_CHUNK):
            yield piece
        yield b"]"

    def close(self) -> None:
        self._file.close()


def _entry(name: str, at: float) -> zipfile.ZipInfo:
    """The ZIP entry of a world-readable file, with a UTC time in the range of ZIP."""
    within = min(max(at, 315_532_800.0), 4_354_819_198.0)  # from 1980 to 2107
    entry = zipfile.ZipInfo(name, time.gmtime(within)[:6])
    entry.external_attr = 0o644 << 16
    return entry
