"""Uploads all samples from the spool of this device to the API, until the API has stored them.

    spool ──oldest first──▶ PUT ──200, 201──▶ removed here
              ▲               ├──refused permanently──▶ stays here, and is not sent again until a restart
              └──backoff──────┴──other errors, no answer, no API for days

One at a time, with a rest as long as each upload took, so that heartbeats and predictions have at least half
of the bandwidth.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import httpx

from streamfleet_core.datasets.picked_sample import MAX_PICKED, PICKED, Picked
from streamfleet_core.datasets.spool import Entry, Spool
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_core.runtime.pinned_tls import PinnedContext
from streamfleet_core.runtime.waiting import is_set_within
from streamfleet_worker.agent.blob_cache import Source

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0  # seconds between two checks of an empty spool
BACKOFF_FIRST = 1.0  # seconds
BACKOFF_LAST = 60.0  # seconds
MIN_REST = 0.05  # seconds between two samples: cameras need the cores
MAX_REST = 10.0  # seconds
_TIMEOUT = 30.0  # seconds for the next chunk to be accepted, or for the answer
_KEEPALIVE = 2.0  # seconds of an idle connection: less than in the API, so that no upload uses a closed one

_STORED = (httpx.codes.OK, httpx.codes.CREATED)
# Errors of the sample itself. All others may be temporary, such as an expired ticket.
_PERMANENT = (
    httpx.codes.FORBIDDEN,
    httpx.codes.CONFLICT,
    httpx.codes.REQUEST_ENTITY_TOO_LARGE,
    httpx.codes.UNPROCESSABLE_ENTITY,
)


class UploadFailed(Exception):
    """Uploads fail at present."""


class Uploader:
    """Uploads the samples of one spool. Created and used in the loop; disk access runs in threads."""

    def __init__(self, spool: Spool, rng: Callable[[], float]) -> None:
        self._spool = spool
        self._rng = rng
        self._source = Source("", "")
        self._source_changed = asyncio.Event()
        self._refused: set[Entry] = set()
        self._backoff = Backoff(first=BACKOFF_FIRST, limit=BACKOFF_LAST)
        self._task: asyncio.Task[None] | None = None
        self._tls = PinnedContext("")
        self._client = httpx.AsyncClient(
            verify=self._tls,
            timeout=httpx.Timeout(_TIMEOUT, connect=10.0),
            limits=httpx.Limits(keepalive_expiry=_KEEPALIVE),
            follow_redirects=False,
            trust_env=False,
        )

    def start(self) -> None:
        """Start uploading, as soon as the API is known."""
        self._task = asyncio.create_task(self._send_until_closed(), name="samples")

    def use(self, source: Source) -> None:
        """Set the API. A pending retry starts at once."""
        self._source = source
        self._tls.fingerprint = source.fingerprint
        self._source_changed.set()
        self._source_changed = asyncio.Event()

    async def close(self) -> None:
        """Stop. An interrupted upload is repeated after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _send_until_closed(self) -> None:
        while True:
            changed = self._source_changed
            wait = CHECK_INTERVAL
            try:
                if self._source.api:
                    await self._send_all()
            except (UploadFailed, httpx.HTTPError, OSError) as exc:
                wait = self._failed(exc)
            await is_set_within(changed, wait)

    def _failed(self, exc: Exception) -> float:
        """Log a failure, and return the seconds until the next attempt."""
        if self._backoff.failures == 0:  # log the first failure only
            reason = str(exc) or type(exc).__name__
            logger.warning("%s: samples cannot be uploaded: %s", self._source.api, reason)
        return self._backoff.failed(self._rng())

    async def _send_all(self) -> None:
        """Upload all samples. Raises: UploadFailed, httpx.HTTPError, OSError."""
        loop = asyncio.get_running_loop()
        entries = await asyncio.to_thread(self._spool.entries)
        self._refused.intersection_update(entries)
        for entry in entries:
            if entry in self._refused:
                continue
            began = loop.time()
            await self._send(entry)
            await asyncio.sleep(min(max(loop.time() - began, MIN_REST), MAX_REST))

    async def _send(self, entry: Entry) -> None:
        """Upload one sample. Raises: UploadFailed, httpx.HTTPError, OSError."""
        content = await asyncio.to_thread(self._read, entry)
        if content is None:
            await asyncio.to_thread(self._spool.remove, entry.dataset, entry.name)
            return
        if len(content) > MAX_PICKED:
            self._refuse(entry, f"expected at most {MAX_PICKED} bytes, got {len(content)}")
            return
        source = self._source
        response = await self._client.put(
            f"{source.api.rstrip('/')}/v2/samples/{entry.dataset}/{entry.name}",
            content=content,
            headers={"Authorization": f"Bearer {source.ticket}", "Content-Type": PICKED},
        )
        if response.status_code in _PERMANENT:
            self._refuse(entry, f"the API answered HTTP {response.status_code}: {response.text[:200]}")
        elif response.status_code not in _STORED:
            raise UploadFailed(f"the API answered HTTP {response.status_code}")
        else:
            await asyncio.to_thread(self._spool.remove, entry.dataset, entry.name)
            self._sent()

    def _read(self, entry: Entry) -> bytes | None:
        """Read and encode a sample; None if it is gone, or incomplete after a power failure."""
        stored = self._spool.read(entry.dataset, entry.name)
        return None if stored is None else Picked(*stored).encode()

    def _refuse(self, entry: Entry, reason: str) -> None:
        level = logging.DEBUG if self._refused else logging.WARNING  # only the first of many is a warning
        self._refused.add(entry)
        logger.log(level, "%s/%s: the sample stays on this device: %s", entry.dataset, entry.name, reason)

    def _sent(self) -> None:
        if self._backoff.failures:
            logger.info("%s: samples are uploaded again", self._source.api)
        self._backoff.succeeded()
