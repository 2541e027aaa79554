"""Blobs of the API in one directory of this device, by sha256: fetched once, and then used offline.

A blob is written to a temporary file, resumed after an interruption, and renamed when its content matches its
name. Damaged blobs are fetched again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import httpx

from streamfleet_core.models.digest import digest_of
from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.runtime.pinned_tls import PinnedContext

logger = logging.getLogger(__name__)

_CHUNK = 1024 * 1024  # bytes between two writes


@dataclass(frozen=True, slots=True)
class Source:
    """API that blobs are fetched from during a session."""

    api: str  # base URL; "" if there is none
    ticket: str
    fingerprint: str = ""  # of the API's certificate; "" without TLS

    @classmethod
    def of(cls, api: str, ticket: str, fingerprint: str) -> Source:
        """Build a source. With a fingerprint it uses HTTPS on the same port."""
        scheme = "https" if fingerprint else "http"
        return cls(api and f"{scheme}://{api.partition('://')[2]}", ticket, fingerprint)


class FetchError(Exception):
    """A blob could not be fetched. `permanent`: retrying does not help."""

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        self.reason = shown_reason(reason)
        super().__init__(self.reason)
        self.permanent = permanent


class BlobCache:
    """The blobs in one directory. Created and used in the loop; disk access runs in threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source_changed = asyncio.Event()  # set, and replaced by a new one, when the source changes
        self._source = Source("", "")
        self._locks: dict[str, asyncio.Lock] = {}  # one fetch per blob, even if two need it
        self._tls = PinnedContext("")
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(10.0), follow_redirects=False, trust_env=False, verify=self._tls
        )

    def use(self, source: Source) -> None:
        """Set the source."""
        self._source = source
        self._tls.fingerprint = source.fingerprint
        self.source_changed.set()
        self.source_changed = asyncio.Event()

    def path(self, digest: str) -> Path:
        """The path of a blob, fetched or not."""
        return self.directory / digest

    async def close(self) -> None:
        """Close the connections, when nothing is fetched any more."""
        await self._client.aclose()

    async def fetch(self, digest: str, *, size: int | None = None, limit: int) -> None:
        """Fetch a blob, unless it is cached. `size`: its bytes, if known. Raises: FetchError."""
        try:
            await self._fetch(digest, size, limit)
        except httpx.HTTPError as exc:
            raise FetchError(f"{self._source.api} cannot be reached: {type(exc).__name__} {exc}") from exc
        except OSError as exc:
            raise FetchError(f"{self.directory} cannot store it: {exc}") from exc

    async def _fetch(self, digest: str, size: int | None, limit: int) -> None:
        async with self._locks.setdefault(digest, asyncio.Lock()):
            if await asyncio.to_thread(_is_cached, self.path(digest), digest, size):
                return
            if not self._source.api:
                raise FetchError("no address to fetch from yet")
            partial = self.directory / f"{digest}.part"
            resumed = await self._download(digest, partial, size, limit)
            if await asyncio.to_thread(digest_of, partial) == digest:
                await asyncio.to_thread(_move_into_place, partial, self.path(digest))
                return
            await asyncio.to_thread(partial.unlink)
            # A resumed part may have been damaged by a power failure; a complete download was not.
            raise FetchError(
                f"expected content of sha256 {digest[:12]}…, got other content", permanent=not resumed
            )

    async def _download(self, digest: str, partial: Path, size: int | None, limit: int) -> bool:
        """Download a blob. Returns whether an earlier part was resumed."""
        source = self._source
        have = await asyncio.to_thread(_size, partial)
        if size is not None and have == size:
            return True
        headers = {"Authorization": f"Bearer {source.ticket}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        url = f"{source.api.rstrip('/')}/v2/blobs/{digest}"
        async with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return True  # the part is complete already
            _check_status(response)
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            await _write(response, partial, have if resumed else 0, limit if size is None else size)
        return resumed


def _check_status(response: httpx.Response) -> None:
    code = response.status_code
    if code in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        return
    if code in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        raise FetchError(f"{response.url} does not exist (HTTP {code})", permanent=True)
    raise FetchError(f"{response.url} answered HTTP {code}")


async def _write(response: httpx.Response, partial: Path, start: int, limit: int) -> None:
    """Append the response after `start` bytes. Writes run in a thread, as the disk may be slow."""
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, start)
        os.lseek(descriptor, 0, os.SEEK_END)
        written = start
        async for chunk in response.aiter_raw(_CHUNK):
            written += len(chunk)
            if written > limit:
                raise FetchError(f"expected at most {limit} bytes, got more", permanent=True)
            await asyncio.to_thread(_write_all, descriptor, chunk)
        await asyncio.to_thread(os.fsync, descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_cached(path: Path, digest: str, size: int | None) -> bool:
    """Whether the blob is cached. A damaged one is removed. Raises: OSError.

    The engine verifies the sha256 of weights when it loads them.
    """
    have = _size(path)
    if have == size or (size is None and have and digest_of(path) == digest):
        return True
    if have:
        logger.warning("blob %s: a file is damaged, fetching it again", digest[:12])
        path.unlink()
    return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _move_into_place(partial: Path, place: Path) -> None:
    partial.replace(place)
    descriptor = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
