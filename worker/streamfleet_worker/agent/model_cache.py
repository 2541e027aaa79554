"""The model cache of this device: blobs by sha256, fetched once from the API and then used offline.

A blob is written to a temporary file, resumed after an interruption, and renamed when its content matches its
name. Damaged blobs are fetched again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from streamfleet_core.models.digest import digest_of
from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.values import Manifest, Variant
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_core.runtime.pinned_tls import PinnedContext
from streamfleet_core.runtime.waiting import is_set_within
from streamfleet_worker.decisions.reconcile_events import ModelFetched, ModelRefused

logger = logging.getLogger(__name__)

MAX_MANIFEST = 4 * 1024 * 1024  # bytes
BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LAST = 30.0  # seconds
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


class ModelCache:
    """The blobs in one directory. Each model is fetched by one task; `on_event` is called from the loop."""

    def __init__(
        self,
        directory: Path,
        on_event: Callable[[ModelFetched | ModelRefused], None],
        rng: Callable[[], float],
        *,
        board: str = "",
    ) -> None:
        """Create a cache. `board`: the kind of this device, whose variants of models are fetched, too."""
        self._board = board
        self._directory = directory
        self._on_event = on_event
        self._rng = rng
        self._source = Source("", "")
        self._source_changed = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._blobs: dict[str, asyncio.Lock] = {}  # one fetch per blob, even if two models share it
        self._tls = PinnedContext("")
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(10.0), follow_redirects=False, trust_env=False, verify=self._tls
        )

    def use(self, source: Source) -> None:
        """Set the source. Pending retries start at once."""
        self._source = source
        self._tls.fingerprint = source.fingerprint
        self._source_changed.set()
        self._source_changed = asyncio.Event()

    def path(self, digest: str) -> Path:
        """The path of a blob, fetched or not."""
        return self._directory / digest

    def fetch(self, digest: str) -> None:
        """Fetch the model of this manifest. One event reports that it is cached, or permanently refused."""
        if digest not in self._tasks:
            task = asyncio.create_task(self._fetch(digest), name=f"fetch {digest[:12]}")
            self._tasks[digest] = task
            task.add_done_callback(lambda done: self._done(digest, done))

    def cancel(self, digest: str) -> None:
        """Stop fetching a model. The fetched part is kept for a later attempt."""
        task = self._tasks.pop(digest, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all fetches, and close the connections."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def _done(self, digest: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(digest) is task:
            del self._tasks[digest]

    async def _fetch(self, digest: str) -> None:
        backoff = Backoff(first=BACKOFF_FIRST, limit=BACKOFF_LAST)
        while True:
            changed = self._source_changed
            try:
                fetched = await self._fetch_once(digest)
            except FetchError as exc:
                logger.warning("model %s: %s", digest[:12], exc.reason)
                self._on_event(ModelRefused(digest, exc.reason, exc.permanent))
                if exc.permanent:
                    return
            else:
                self._on_event(fetched)
                return
            await is_set_within(changed, backoff.failed(self._rng()))

    async def _fetch_once(self, digest: str) -> ModelFetched:
        """Fetch the manifest, the weights, and the variant for this board. Raises: FetchError."""
        try:
            await self._fetch_blob(digest, None)
            manifest = Manifest.decode(await asyncio.to_thread(self.path(digest).read_bytes))
            await self._fetch_blob(manifest.weights.sha256, manifest.weights.size)
            variant = await self._fetch_variant(digest, manifest)
        except httpx.HTTPError as exc:
            raise FetchError(f"{self._source.api} cannot be reached: {type(exc).__name__} {exc}") from exc
        except OSError as exc:
            raise FetchError(f"{self._directory} cannot store it: {exc}") from exc
        except msgspec.DecodeError as exc:
            raise FetchError(f"its manifest cannot be read: {exc}", permanent=True) from exc
        return ModelFetched(digest, manifest, variant)

    async def _fetch_variant(self, digest: str, manifest: Manifest) -> Variant | None:
        """Fetch the variant for this board. Without it the model itself runs. Raises: FetchError."""
        variant = manifest.variant_for(self._board)
        if variant is None:
            return None
        try:
            await self._fetch_blob(variant.weights.sha256, variant.weights.size)
        except FetchError as exc:
            if not exc.permanent:
                raise
            logger.warning("model %s: without its %s variant: %s", digest[:12], variant.precision, exc.reason)
            return None
        return variant

    async def _fetch_blob(self, digest: str, size: int | None) -> None:
        async with self._blobs.setdefault(digest, asyncio.Lock()):
            if await asyncio.to_thread(_is_cached, self.path(digest), digest, size):
                return
            if not self._source.api:
                raise FetchError("no address to fetch from yet")
            partial = self._directory / f"{digest}.part"
            resumed = await self._download(digest, partial, size)
            if await asyncio.to_thread(digest_of, partial) == digest:
                await asyncio.to_thread(_move_into_place, partial, self.path(digest))
                return
            await asyncio.to_thread(partial.unlink)
            # A resumed part may have been damaged by a power failure; a complete download was not.
            raise FetchError(
                f"expected content of sha256 {digest[:12]}…, got other content", permanent=not resumed
            )

    async def _download(self, digest: str, partial: Path, size: int | None) -> bool:
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
            limit = MAX_MANIFEST if size is None else size
            await _write(response, partial, have if resumed else 0, limit)
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
        logger.warning("model %s: a file is damaged, fetching it again", digest[:12])
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
