"""The model cache of this device: manifests and weights, fetched once from the API and then used offline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from streamfleet_core.protocol.values import Manifest, Variant, Weights
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_core.runtime.waiting import is_set_within
from streamfleet_worker.agent.blob_cache import BlobCache, FetchError, Source
from streamfleet_worker.decisions.reconcile_events import ModelFetched, ModelRefused

logger = logging.getLogger(__name__)

MAX_MANIFEST = 4 * 1024 * 1024  # bytes
BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LAST = 30.0  # seconds


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
        self._blobs = BlobCache(directory)
        self._on_event = on_event
        self._rng = rng
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def use(self, source: Source) -> None:
        """Set the source. Pending retries start at once."""
        self._blobs.use(source)

    def path(self, digest: str) -> Path:
        """The path of a blob, fetched or not."""
        return self._blobs.path(digest)

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
        await self._blobs.close()

    def _done(self, digest: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(digest) is task:
            del self._tasks[digest]

    async def _fetch(self, digest: str) -> None:
        backoff = Backoff(first=BACKOFF_FIRST, limit=BACKOFF_LAST)
        while True:
            changed = self._blobs.source_changed
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
            await self._blobs.fetch(digest, limit=MAX_MANIFEST)
            manifest = Manifest.decode(await asyncio.to_thread(self.path(digest).read_bytes))
            await self._fetch_weights(manifest.weights)
            variant = await self._fetch_variant(digest, manifest)
        except OSError as exc:
            raise FetchError(f"{self._blobs.directory} cannot be read: {exc}") from exc
        except msgspec.DecodeError as exc:
            raise FetchError(f"its manifest cannot be read: {exc}", permanent=True) from exc
        return ModelFetched(digest, manifest, variant)

    async def _fetch_variant(self, digest: str, manifest: Manifest) -> Variant | None:
        """Fetch the variant for this board. Without it the model itself runs. Raises: FetchError."""
        variant = manifest.variant_for(self._board)
        if variant is None:
            return None
        try:
            await self._fetch_weights(variant.weights)
        except FetchError as exc:
            if not exc.permanent:
                raise
            logger.warning("model %s: without its %s variant: %s", digest[:12], variant.precision, exc.reason)
            return None
        return variant

    async def _fetch_weights(self, weights: Weights) -> None:
        """Raises: FetchError."""
        await self._blobs.fetch(weights.sha256, size=weights.size, limit=weights.size)
