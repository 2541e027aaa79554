"""One of several brokers on one store: it stands by until it leads, and leads until another one does.

    standing by --the leader's beat stands still--> leading --fenced, or its lease is over--> standing by

Its sockets stay open meanwhile, so devices and operators stay connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.errors import BadKey, Fenced, StoreDown
from streamfleet_broker.fleet.records import Record
from streamfleet_broker.fleet.state import MAX_TICK
from streamfleet_broker.keys import KEYS, load, load_or_make
from streamfleet_broker.leadership.candidacy import POLL_INTERVAL, Candidacy
from streamfleet_broker.leadership.not_leading import ADMITTED, NotLeading
from streamfleet_broker.relay.relay import Rules
from streamfleet_broker.server import Broker, OpenSockets, in_thread, lead, make_private, open_sockets
from streamfleet_broker.sockets import port_of, tcp
from streamfleet_broker.storage.sqlite_store import lock_folder
from streamfleet_broker.storage.store import Store, open_postgresql
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.boot_time import boot_time

if TYPE_CHECKING:
    from streamfleet_broker.storage.postgresql_store import PostgresqlCandidate

logger = logging.getLogger(__name__)

ADMIT_INTERVAL = 2.0  # seconds, at least, between two reads of who may connect


@contextlib.asynccontextmanager
async def open_candidate(config: BrokerConfig) -> AsyncIterator[Candidate]:
    """Open a broker that listens and stands by; its `run` serves. Raises: BrokerError, OSError."""
    make_private(config.data_dir)
    async with contextlib.AsyncExitStack() as closing:
        closing.callback(os.close, lock_folder(config.data_dir))
        contender = await in_thread(open_postgresql, config.store)
        closing.callback(contender.close)
        keys, operator_keys = _shared_keys(config.data_dir, contender)
        opened = await closing.enter_async_context(open_sockets(config, keys, operator_keys.public))
        candidate = Candidate(opened, contender)
        await candidate.start()
        yield candidate


class Candidate:
    """A running broker of several. One task owns it."""

    def __init__(self, opened: OpenSockets, contender: PostgresqlCandidate) -> None:
        self.endpoints = opened.endpoints
        self.name = tcp(opened.config.hosts[0], port_of(opened.endpoints.devices))  # for operators
        self._opened = opened
        self._contender = contender
        self._candidacy = Candidacy()
        self._not_leading = NotLeading(opened.operator_key)
        self._broker = Broker(opened, self._not_leading, None, tick=MAX_TICK)  # the present one
        self._told = ""  # what was logged last of who leads
        self._is_down = False  # the store, when it was last asked
        self._admitted = -1  # the version of the store that said who may connect
        self._admitted_at = float("-inf")

    @property
    def epoch(self) -> int:
        """The epoch of the leader."""
        return self._broker.fleet.epoch

    async def start(self) -> None:
        """Let clients connect. Raises: StoreDown, StoreUnusable."""
        self._not_leading.see(await in_thread(self._contender.see))
        await self._admit(await in_thread(self._contender.records, ADMITTED))
        for zap_handler in self._opened.zap_handlers:
            zap_handler.start()

    async def run(self) -> None:
        """Serve until cancelled. Raises: RelayDied, StoreUnusable."""
        while True:
            store = await self._stand_by()
            try:
                await self._lead(store)
            except Fenced as exc:
                logger.warning("%s", exc)
            finally:
                gc.unfreeze()
                await in_thread(store.close)

    async def _stand_by(self) -> Store:
        """Refuse everything until this broker may lead."""
        opened = self._opened
        opened.relay.rules = Rules.of(()).succeeding(opened.relay.rules)
        self._candidacy, self._admitted, self._admitted_at = Candidacy(), -1, float("-inf")
        self._broker = Broker(opened, self._not_leading, None, tick=MAX_TICK)
        serving = asyncio.create_task(self._broker.run(), name="standing by")
        try:
            while True:
                store = await self._look()
                if store is not None:
                    return store
                await asyncio.wait({serving}, timeout=POLL_INTERVAL)
                if serving.done():
                    serving.result()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _look(self) -> Store | None:
        """Look who leads, and take the lead if it is time."""
        try:
            seen = await in_thread(self._contender.see)
            self._not_leading.see(seen)
            if seen.version != self._admitted and boot_time() >= self._admitted_at + ADMIT_INTERVAL:
                await self._admit(await in_thread(self._contender.records, ADMITTED))
                self._admitted, self._admitted_at = seen.version, boot_time()
            store = None
            if self._candidacy.see(seen, boot_time()):
                store = await in_thread(self._contender.lead, seen, self.name)
        except StoreDown as exc:
            if not self._is_down:
                logger.error("%s", exc)
            self._is_down = True
            return None
        self._is_down = False
        if store is None and seen.leader and self._told != self._not_leading.reason:
            self._told = self._not_leading.reason
            logger.info("%s", self._told)
        return store

    async def _admit(self, records: tuple[Record, ...]) -> None:
        await self._broker.perform(self._not_leading.admit(records))

    async def _lead(self, store: Store) -> None:
        """Lead until another broker does. Raises: Fenced."""
        self._told = ""
        self._broker = await lead(self._opened, store)
        gc.freeze()  # the rows stay: collections need not traverse them
        logger.info("leads in epoch %d, with %d rows", store.epoch, len(store.records))
        await self._broker.run()


def _shared_keys(folder: Path, contender: PostgresqlCandidate) -> list[KeyPair]:
    """The key pairs of broker and operator. The first broker of a fleet makes them.

    Raises: BadKey, StoreDown.
    """
    of_fleet = contender.keys("")
    pairs = [load(folder / name) if of_fleet else load_or_make(folder / name) for name in KEYS]
    own = " ".join(pair.public for pair in pairs)
    if contender.keys(own) != own:
        raise BadKey(
            folder / KEYS[0], "that of the fleet: copy the folder keys of another broker of this fleet"
        )
    return pairs
