"""From the spool of this device to the api: every sample, until the api has said that it is on its disk.

    spool ──oldest first──▶ PUT ──200, 201──▶ removed here
              ▲               ├──refused for good──▶ stays here, and is not sent again until a restart
              └──back-off─────┴──anything else, no answer, no api for days

One at a time, with a rest as long as each took, so heartbeats and predictions always have half of the way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import httpx

from streamfleet_core.datasets.spool import Entry, Spool
from streamfleet_core.protocol.picked_sample import MAX_PICKED, PICKED, Picked
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_core.runtime.pinned_tls import PinnedContext
from streamfleet_core.runtime.waiting import is_set_within
from streamfleet_worker.agent.model_cache import Source

logger = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at a spool that was empty
BACKOFF_FIRST = 1.0  # seconds
BACKOFF_LAST = 60.0  # seconds
LEAST_REST = 0.05  # seconds between two samples: the cores are the cameras'
MOST_REST = 10.0  # seconds
_PATIENCE = 30.0  # seconds for the next piece to be taken, or for the answer
_KEEP = 2.0  # seconds of an idle connection: less than the api's, so that none breaks under a sample

_HERE = (httpx.codes.OK, httpx.codes.CREATED)
# What the api says of a sample itself. All else may be better later, as a ticket that has run out.
_NEVER = (
    httpx.codes.FORBIDDEN,
    httpx.codes.CONFLICT,
    httpx.codes.REQUEST_ENTITY_TOO_LARGE,
    httpx.codes.UNPROCESSABLE_ENTITY,
)


class Unsent(Exception):
    """Nothing can be sent at present."""


class Uploader:
    """Sends what one spool has. Made and used in the loop; the disk is awaited in threads."""

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
            timeout=httpx.Timeout(_PATIENCE, connect=10.0),
            limits=httpx.Limits(keepalive_expiry=_KEEP),
            follow_redirects=False,
            trust_env=False,
        )

    def start(self) -> None:
        """Send whatever there is, as soon as it is known where to."""
        self._task = asyncio.create_task(self._send_for_ever(), name="samples")

    def use(self, source: Source) -> None:
        """Send there, from now on. Who waits to try again tries at once."""
        self._source = source
        self._tls.fingerprint = source.fingerprint
        self._source_changed.set()
        self._source_changed = asyncio.Event()

    async def close(self) -> None:
        """Give everything back. A sample that is under way is sent again another time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _send_for_ever(self) -> None:
        while True:
            changed = self._source_changed
            wait = LOOK
            try:
                if self._source.api:
                    await self._send_all()
            except (Unsent, httpx.HTTPError, OSError) as exc:
                wait = self._failed(exc)
            await is_set_within(changed, wait)

    def _failed(self, exc: Exception) -> float:
        """The seconds until it is tried again."""
        if self._backoff.failures == 0:  # log the first failure only
            reason = str(exc) or type(exc).__name__
            logger.warning("samples wait for %s: %s", self._source.api, reason)
        return self._backoff.failed(self._rng())

    async def _send_all(self) -> None:
        """Raises: Unsent, httpx.HTTPError, OSError."""
        loop = asyncio.get_running_loop()
        entries = await asyncio.to_thread(self._spool.entries)
        self._refused.intersection_update(entries)
        for entry in entries:
            if entry in self._refused:
                continue
            began = loop.time()
            await self._send(entry)
            await asyncio.sleep(min(max(loop.time() - began, LEAST_REST), MOST_REST))

    async def _send(self, entry: Entry) -> None:
        """Raises: Unsent, httpx.HTTPError, OSError."""
        content = await asyncio.to_thread(self._read, entry)
        if content is None:
            await asyncio.to_thread(self._spool.remove, entry.dataset, entry.name)
            return
        if len(content) > MAX_PICKED:
            self._refuse(entry, f"it has {len(content)} bytes, the api takes {MAX_PICKED}")
            return
        source = self._source
        response = await self._client.put(
            f"{source.api.rstrip('/')}/v2/samples/{entry.dataset}/{entry.name}",
            content=content,
            headers={"Authorization": f"Bearer {source.ticket}", "Content-Type": PICKED},
        )
        if response.status_code in _NEVER:
            self._refuse(entry, f"the api answered HTTP {response.status_code}: {response.text[:200]}")
        elif response.status_code not in _HERE:
            raise Unsent(f"it answered HTTP {response.status_code}")
        else:
            await asyncio.to_thread(self._spool.remove, entry.dataset, entry.name)
            self._sent()

    def _read(self, entry: Entry) -> bytes | None:
        """As it travels; None when it is gone, or not whole since a cut of power."""
        here = self._spool.read(entry.dataset, entry.name)
        return None if here is None else Picked(*here).encode()

    def _refuse(self, entry: Entry, reason: str) -> None:
        level = logging.DEBUG if self._refused else logging.WARNING  # of many the first says why
        self._refused.add(entry)
        logger.log(level, "sample %s of %s stays here: %s", entry.name, entry.dataset, reason)

    def _sent(self) -> None:
        if self._backoff.failures:
            logger.info("samples go to %s again", self._source.api)
        self._backoff.succeeded()
