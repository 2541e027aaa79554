"""The stores that a broker may use, as the tests of what they have in common see them."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from streamfleet_broker.errors import StoreUnusable
from streamfleet_broker.storage.postgresql_store import PostgresqlCandidate
from streamfleet_broker.storage.sqlite_store import SqliteStore
from streamfleet_broker.storage.store import Store

_NUMBERS = itertools.count(1)


def at_once() -> None:
    """Wait for nothing."""


class Engine(Protocol):
    """What stores the rows of one fleet."""

    def lead(self) -> Store:
        """Take the lead as soon as a broker may, without waiting for the end of a lease."""

    def contend(self, until: Callable[[], object] = at_once) -> Store | None:
        """The same, where another broker may lead; None if that one keeps the lead.

        `until`: called after the look at who leads, to take the lead together with others.
        """

    def blocked(self) -> contextlib.AbstractContextManager[None]:
        """Nothing can be written within the block."""


@dataclass(frozen=True)
class SqliteEngine:
    """A data directory."""

    folder: Path

    def lead(self) -> Store:
        return SqliteStore(self.folder)

    def contend(self, until: Callable[[], object] = at_once) -> Store | None:
        until()
        try:
            return SqliteStore(self.folder)
        except StoreUnusable as exc:
            if "another broker is running" not in str(exc):
                raise
            return None

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self.folder / "store.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            yield


@dataclass(frozen=True)
class PostgresqlEngine:
    """A database."""

    url: str

    def lead(self) -> Store:
        store = self.contend()
        assert store is not None
        return store

    def contend(self, until: Callable[[], object] = at_once) -> Store | None:
        candidate = PostgresqlCandidate(self.url)
        with contextlib.closing(candidate):
            seen = candidate.see()
            until()
            return candidate.lead(seen, f"broker {next(_NUMBERS)}")

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        with psycopg.connect(self.url) as blocker:
            blocker.execute("LOCK TABLE streamfleet_rows")
            yield
