"""The files of the fleet that pipelines of this device play: their sources are named `blob:<sha256>`.

    assigned ──▶ fetched from the API ──▶ a file of this device, which cameras open by its path
                                              └──no pipeline plays it any more──▶ removed

A camera that opens a file before it is here finds none, and tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from streamfleet_core.protocol.source_reference import blob_of
from streamfleet_core.protocol.values import Assignment, PipelineSpec
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_core.runtime.waiting import is_set_within
from streamfleet_worker.agent.blob_cache import BlobCache, FetchError, Source

logger = logging.getLogger(__name__)

MAX_FILE = 256 * 1024**2  # bytes
BACKOFF_FIRST = 0.5  # seconds
BACKOFF_LAST = 30.0  # seconds


class SourceFiles:
    """The files in one directory. Each is fetched by one task. Created and used in the loop."""

    def __init__(self, directory: Path, rng: Callable[[], float]) -> None:
        self._blobs = BlobCache(directory)
        self._rng = rng
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def use(self, source: Source) -> None:
        """Set the API. Pending retries start at once."""
        self._blobs.use(source)

    def adopt(self, assignments: Iterable[Assignment]) -> None:
        """Fetch what the sources of these pipelines play, and remove all else."""
        wanted = {digest for assignment in assignments for digest in _blobs_of(assignment.spec)}
        for digest in self._tasks.keys() - wanted:
            self._tasks.pop(digest).cancel()
        self._remove_all_but(wanted)
        for digest in wanted - self._tasks.keys():
            self._tasks[digest] = asyncio.create_task(self._fetch(digest), name=f"fetch {digest[:12]}")

    def local(self, spec: PipelineSpec) -> PipelineSpec:
        """The same spec, with the paths of the files in place of their names."""
        if not _blobs_of(spec):
            return spec
        sources = tuple(
            source
            if (digest := blob_of(source.reference)) is None
            else replace(source, reference=str(self._blobs.path(digest).absolute()))
            for source in spec.sources
        )
        return replace(spec, sources=sources)

    async def close(self) -> None:
        """Stop all fetches. What is here stays."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._blobs.close()

    def _remove_all_but(self, wanted: set[str]) -> None:
        try:
            for path in self._blobs.directory.iterdir():
                if path.name.partition(".")[0] not in wanted:
                    path.unlink(missing_ok=True)
        except OSError as exc:  # they are removed when the disk allows it
            logger.warning("%s: files of sources cannot be removed: %s", self._blobs.directory, exc)

    async def _fetch(self, digest: str) -> None:
        backoff = Backoff(first=BACKOFF_FIRST, limit=BACKOFF_LAST)
        while True:
            changed = self._blobs.source_changed
            try:
                await self._blobs.fetch(digest, limit=MAX_FILE)
            except FetchError as exc:
                if backoff.failures == 0:  # log the first failure only
                    logger.warning("file %s of a source: %s", digest[:12], exc.reason)
            else:
                return
            await is_set_within(changed, backoff.failed(self._rng()))


def _blobs_of(spec: PipelineSpec) -> set[str]:
    digests = (blob_of(source.reference) for source in spec.sources)
    return {digest for digest in digests if digest is not None}
