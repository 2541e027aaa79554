"""The broker's durable rows, in SQLite. What `commit` has returned from survives a kill -9 and a power cut.

One generic table, written row by row, so that any store with a transaction can take its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgpack
import msgspec

from streamfleet_broker.errors import StoreDown, StoreUnusable
from streamfleet_broker.protocol.values import from_plain, to_plain
from streamfleet_broker.records import KINDS, Record, Write

BUSY_TIMEOUT = 1.0  # seconds; while a write waits, no beat is acknowledged

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    rev INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
"""


class Store:
    """The rows of one data directory, which belongs to one process. Any one thread at a time may use it.

    Raises: StoreUnusable, when it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.db"
        self._lock = _lock(folder / "lock")
        try:
            _refuse_exposed(self.path)
            self._connection = _connect(self.path)
            self.epoch, self.cluster = self._begin_epoch()
            self.records = self._read()
        except (OSError, sqlite3.Error, ValueError, msgspec.ValidationError) as exc:
            os.close(self._lock)
            raise StoreUnusable(self.path, _explain(exc)) from exc
        except BaseException:
            os.close(self._lock)
            raise

    def commit(self, writes: Iterable[Write]) -> None:
        """Make all writes durable, or none. Raises: StoreDown."""
        try:
            with self._transaction() as connection:
                for write in writes:
                    _write_row(connection, write, self.epoch)
        except sqlite3.Error as exc:
            raise StoreDown(self.path, str(exc)) from exc

    def raise_epoch(self, epoch: int) -> None:
        """Command under a higher epoch from now on, and after every start. Raises: StoreDown."""
        try:
            with self._transaction() as connection:
                connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (str(epoch),))
        except sqlite3.Error as exc:
            raise StoreDown(self.path, str(exc)) from exc
        self.epoch = epoch

    def close(self) -> None:
        """Let another process have the data directory."""
        self._connection.close()
        os.close(self._lock)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk has ended the transaction already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _begin_epoch(self) -> tuple[int, str]:
        """Whoever starts later commands: a larger epoch is durable before anybody hears of it."""
        with self._transaction() as connection:
            meta = dict(connection.execute("SELECT name, value FROM meta"))
            epoch = int(meta.get("epoch", 0)) + 1
            cluster = str(meta.get("cluster") or secrets.token_hex(16))
            connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", [("epoch", str(epoch)), ("cluster", cluster)]
            )
        return epoch, cluster

    def _read(self) -> tuple[Record, ...]:
        rows = self._connection.execute("SELECT kind, key, value FROM rows ORDER BY kind, key")
        return tuple(_decode(kind, key, value) for kind, key, value in rows)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise StoreUnusable(path.parent, "another broker is running on this data directory") from exc
    return descriptor


def _refuse_exposed(path: Path) -> None:
    """SQLite gives its journals the rights of the database: they are right if that one is made right. (S8)"""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise StoreUnusable(path, f"it has the rights {mode:04o}, expected 0600: run 'chmod 600 {path}'")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _explain(exc: Exception) -> str:
    if isinstance(exc, sqlite3.OperationalError):
        return f"cannot be used: {exc}"
    if isinstance(exc, OSError):
        return f"cannot be opened: {exc.strerror}"
    return f"is damaged ({exc}): put a backup in its place, or move it away to start with an empty fleet"


def _write_row(connection: sqlite3.Connection, write: Write, epoch: int) -> None:
    if write.after is None:
        connection.execute("DELETE FROM rows WHERE kind = ? AND key = ?", (write.kind, write.key))
        return
    connection.execute(
        "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
        (write.kind, write.key, msgpack.packb(to_plain(write.after)), epoch),
    )


def _decode(kind: str, key: str, value: bytes) -> Record:
    of = KINDS.get(kind)
    if of is None:
        raise ValueError(f"row {kind}/{key} is of a kind that this version does not know")
    return from_plain(msgpack.unpackb(value), of)
