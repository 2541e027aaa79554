"""Content by its sha256: models and their manifests, on disk, each either whole and verified or not there.

arriving/<random>  ── digest agrees ──▶  <sha256>
       └── digest differs, sender gone, disk full ──▶ removed
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType

from streamfleet_core.models.digest import digest_of
from streamfleet_core.protocol.limits import SHA256_PATTERN, whole

logger = logging.getLogger(__name__)

_CHUNK = 1_048_576  # bytes that are hashed and written at once, in a thread
_NAME = re.compile(whole(SHA256_PATTERN))


class BlobError(Exception):
    """Content that was not taken: nothing of it is left."""


class WrongDigest(BlobError):
    """The bytes are not those that their name says."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected content of sha256 {expected}, got {got}: it was damaged on its way")


class TooLarge(BlobError):
    """More bytes than one blob may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"expected at most {limit} bytes, got more")


class Blobs:
    """The store in one folder. Its methods may be called from the event loop; they write in threads."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._arriving = folder / "arriving"
        self._limit = limit  # bytes of one blob

    def open(self) -> None:
        """Make the folder, and remove what a killed process left half written."""
        self._arriving.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._arriving.iterdir():
            leftover.unlink()

    def find(self, digest: str) -> Path | None:
        """The file of that content, or None."""
        if not _NAME.match(digest):
            return None
        path = self._folder / digest
        return path if path.is_file() else None

    def verified(self, digest: str) -> Path | None:
        """The same, if it is that content; what a disk has damaged is removed, to be put again. It blocks.

        Raises: OSError.
        """
        path = self.find(digest)
        if path is None or digest_of(path) == digest:
            return path
        logger.error("%s: damaged, and removed: its content is another one", path)
        path.unlink(missing_ok=True)
        return None

    def remove(self, digests: Iterable[str]) -> None:
        """Remove content, if it exists. It blocks."""
        for digest in digests:
            path = self.find(digest)
            if path is not None:
                path.unlink(missing_ok=True)

    def sweep(self, needed: set[str], unused: float) -> None:
        """Remove content that is not needed and is older than `unused` seconds. It blocks."""
        before = time.time() - unused
        for path in self._folder.iterdir():
            if _NAME.match(path.name) and path.name not in needed and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)

    async def put(self, digest: str, content: AsyncIterator[bytes], *, limit: int | None = None) -> Path:
        """Take content as it comes; it is visible when it is whole. `limit`: bytes, if it may have fewer.

        Raises: WrongDigest, TooLarge, OSError; whatever `content` raises when its sender goes away.
        """
        most = self._limit if limit is None else min(limit, self._limit)
        arrival = await asyncio.to_thread(_Arrival, self._arriving, most)
        with arrival:
            async for chunk in _in_chunks(content):
                await asyncio.to_thread(arrival.write, chunk)
            return await asyncio.to_thread(arrival.admit, self._folder, digest)

    def put_file(self, path: Path) -> str:
        """Take a copy of a file, and say its digest. It blocks. Raises: TooLarge, OSError."""
        with _Arrival(self._arriving, self._limit) as arrival, path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                arrival.write(chunk)
            return arrival.admit(self._folder).name

    def put_bytes(self, content: bytes) -> str:
        """Take a few bytes, and say their digest. It blocks. Raises: TooLarge, OSError."""
        here = self.find(hashlib.sha256(content).hexdigest())
        if here is not None and here.read_bytes() == content:  # a full disk could not take it again
            here.touch()
            return here.name
        with _Arrival(self._arriving, self._limit) as arrival:
            arrival.write(content)
            return arrival.admit(self._folder).name


class _Arrival:
    """Content on its way in: a file that is removed unless it is admitted."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._path = folder / secrets.token_hex(8)
        self._file = self._path.open("xb")
        self._hash = hashlib.sha256()
        self._size = 0
        self._limit = limit

    def __enter__(self) -> _Arrival:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()  # writes what is left, for which there may be no room
        finally:
            self._path.unlink(missing_ok=True)  # it has another name by now if it was admitted

    def write(self, chunk: bytes) -> None:
        """Raises: TooLarge, OSError."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise TooLarge(self._limit)
        self._hash.update(chunk)
        self._file.write(chunk)

    def admit(self, folder: Path, expected: str | None = None) -> Path:
        """Give the file its name, durably. Raises: WrongDigest, OSError."""
        digest = self._hash.hexdigest()
        if expected is not None and digest != expected:
            raise WrongDigest(expected, digest)
        self._file.flush()
        os.fsync(self._file.fileno())
        path = folder / digest
        self._path.replace(path)
        _sync_folder(folder)
        return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _in_chunks(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the same bytes in larger pieces, so that a thread switch pays off."""
    pending = bytearray()
    async for piece in content:
        pending += piece
        if len(pending) >= _CHUNK:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)
