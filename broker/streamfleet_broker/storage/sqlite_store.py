"""The broker's durable rows, in SQLite. Once `commit` returns, a write survives a crash and a power failure.

One broker has the data directory: a lock of its folder keeps others out, so nothing else fences its writes.

    commit ──▶ store.db-wal ──idle──▶ store.db    then the journal is empty, and deleted rows are wiped
       └─────▶ store.version                      the last version, so that a loss is detected at the start

Each transaction increments the version of the store, and stores the number and the digest of all rows.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shlex
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamfleet_broker.errors import StoreDown, StoreUnusable
from streamfleet_broker.fleet.records import Record, Write
from streamfleet_broker.leadership.lease import Lease
from streamfleet_broker.storage.rows import Key, decode, encode
from streamfleet_broker.storage.version_marker import Mark, VersionMarker
from streamfleet_core.runtime.schema_version import OtherVersion, check_version, has_tables

logger = logging.getLogger(__name__)

BUSY_TIMEOUT = 1.0  # seconds; while a write waits, no heartbeat is acknowledged
QUIET = 2.0  # seconds without a write after which the journal is emptied
LONGEST = 30.0  # seconds after which it is emptied between two writes
FILE, MARKER = "store.db", "store.version"
SCHEMA_VERSION = 1  # of the tables and the records in them: rises when an older broker could not read them

_DIGEST = 16  # bytes
_MODULUS: int = 1 << (8 * _DIGEST)
_LOCKED = "database is locked"
_UNAVAILABLE = {  # errors of SQLite that do not mean that the file is damaged
    _LOCKED,
    "attempt to write a readonly database",
    "database or disk is full",
    "disk I/O error",
    "locking protocol",
    "unable to open database file",
}
_SCHEMA = f"""
BEGIN;
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE rows (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
COMMIT;
"""


class Damaged(ValueError):
    """The rows differ from those that were written."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a database."""

    mark: Mark
    epoch: int
    records: dict[Key, Record]
    sums: dict[Key, int]  # the digest of each row


class SqliteStore:
    """The rows of one data directory, for one process. One thread at a time may use it.

    Raises: StoreUnusable, when it is opened.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.lease: Lease | None = None
        self._marker = VersionMarker(folder / MARKER)
        self._is_unmarked = False
        self._dirty_since = self._tidy_at = float(
            "inf"
        )  # monotonic seconds; never while the journal is empty
        with contextlib.ExitStack() as opening:
            lock = lock_folder(folder)
            opening.callback(os.close, lock)
            try:
                contents = self._open(opening)
            except (OSError, sqlite3.Error, ValueError, msgspec.ValidationError) as exc:
                raise StoreUnusable(self.path, _explain(exc, folder)) from exc
            self._opened = opening.pop_all()
        self.records = tuple(contents.records.values())
        self.cluster = contents.mark.cluster
        self._version, self._rows, self._sums = contents.mark.version, contents.mark.rows, contents.sums
        self._digest = _total(contents.sums)
        self.epoch = contents.epoch + 1
        self._epoch_is_saved = False
        self._begin_epoch()

    def commit(self, writes: Iterable[Write]) -> None:
        """Make all writes durable, or none of them. Raises: StoreDown."""
        self._write(writes, self.epoch)

    def raise_epoch(self, epoch: int) -> None:
        """Store a higher epoch, for now and for later starts. Raises: StoreDown."""
        self._write((), epoch)
        self.epoch = epoch

    def renew(self) -> None:
        """Nothing to do: the lock of the data directory is the lead."""

    def is_due(self, now: float) -> bool:
        """Whether it is time for `tidy`."""
        return now >= self._tidy_at

    def tidy(self) -> None:
        """Merge the journal into the database. Raises: StoreDown."""
        self._tidy_at = time.monotonic() + LONGEST
        try:
            # A reader, such as a backup, blocks it: it is tried again later.
            self._connection.execute("PRAGMA busy_timeout = 0")
            (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as exc:
            raise StoreDown(self.path, str(exc)) from exc
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
        if busy:
            self._tidy_at = time.monotonic() + QUIET
        else:
            self._dirty_since = self._tidy_at = float("inf")

    def close(self) -> None:
        """Close the store and unlock the data directory."""
        self._opened.close()

    # opening ----------------------------------------------------------------------------------------------

    def _open(self, opening: contextlib.ExitStack) -> Contents:
        marked = self._marker.read()
        if marked is not None and not self.path.exists():
            raise Damaged(f"it is missing, expected {_told(marked)}")
        _refuse_exposed(self.path)
        self._connection = connect(self.path)
        opening.callback(self._connection.close)
        check_version(self._connection, SCHEMA_VERSION)
        if not has_tables(self._connection):
            if marked is not None:
                raise Damaged(f"it is empty, expected {_told(marked)}")
            self._connection.executescript(_SCHEMA)
        contents = read(self._connection)
        compare(contents.mark, marked, self._marker.path)
        opening.callback(self._marker.close)
        if marked is None:  # before the first commit: a version above 0 without a marker is a loss
            self._write_mark(contents.mark)
        return contents

    def _begin_epoch(self) -> None:
        """Make the epoch of this start durable before anything is written under it.

        On a full disk, it is stored with the first write for which there is room.
        """
        try:
            self._write((), self.epoch)
        except StoreDown as exc:
            logger.warning("%s; the store is read-only until writing works again", exc)

    # writing ----------------------------------------------------------------------------------------------

    def _write(self, writes: Iterable[Write], epoch: int) -> None:
        """Write everything in one transaction. Raises: StoreDown."""
        sums: dict[Key, int] = {}  # 0: removed
        try:
            with self._transaction() as connection:
                for write in writes:
                    sums[write.kind, write.key] = _write_row(connection, write, epoch)
                version, rows, digest = self._version + 1, self._rows, self._digest
                for key, each in sums.items():
                    before = self._sums.get(key, 0)
                    rows += bool(each) - bool(before)
                    digest = (digest + each - before) % _MODULUS
                meta = [("mark", f"{version} {rows} {digest:x}")]
                if epoch != self.epoch or not self._epoch_is_saved:
                    meta += [("epoch", str(epoch)), ("cluster", self.cluster)]
                connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)
        except sqlite3.Error as exc:
            raise StoreDown(self.path, str(exc)) from exc
        self._version, self._rows, self._digest = version, rows, digest
        self._epoch_is_saved = True
        for key, each in sums.items():
            if each:
                self._sums[key] = each
            else:
                self._sums.pop(key, None)
        self._written()

    def _written(self) -> None:
        now = time.monotonic()
        self._dirty_since = min(self._dirty_since, now)
        self._tidy_at = min(now + QUIET, self._dirty_since + LONGEST)
        self._write_mark(Mark(self.cluster, self._version, self._rows))

    def _write_mark(self, mark: Mark) -> None:
        try:
            self._marker.write(mark)
        except OSError as exc:
            if not self._is_unmarked:  # log once, not at each commit
                logger.warning("%s: cannot be written, a loss might go unnoticed: %s", self._marker.path, exc)
            self._is_unmarked = True
        else:
            self._is_unmarked = False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk has already ended the transaction.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def lock_folder(folder: Path) -> int:
    """Lock out other brokers as long as the returned descriptor is open. Raises: StoreUnusable, OSError."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise StoreUnusable(folder, "another broker is running on this data directory") from exc
    return descriptor


def connect(path: Path) -> sqlite3.Connection:
    """Connect to a database and let SQLite check it. Raises: sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        try:
            _prepare(connection)
        except sqlite3.OperationalError as exc:
            if str(exc) == _LOCKED:  # for a moment: an exclusive connection would keep out all backups
                raise
            # A full disk has no room for the shared index. An exclusive connection keeps it in memory.
            connection.close()
            connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def read(connection: sqlite3.Connection) -> Contents:
    """Read all rows.

    Raises: OtherVersion, sqlite3.Error, ValueError and ValidationError for damaged rows.
    """
    check_version(connection, SCHEMA_VERSION)
    connection.execute("BEGIN")
    try:
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        rows = connection.execute("SELECT kind, key, value FROM rows ORDER BY kind, key").fetchall()
    finally:
        connection.execute("COMMIT")
    records = {(kind, key): decode(kind, key, value) for kind, key, value in rows}
    sums = {(kind, key): _sum(kind, key, value) for kind, key, value in rows}
    version, count, digest = _mark_of(meta, sums)
    if (count, digest) != (len(sums), _total(sums)):
        raise ValueError(f"its {len(sums)} rows are not the {count} that were written")
    cluster = meta.get("cluster") or secrets.token_hex(16)
    return Contents(Mark(cluster, version, len(sums)), int(meta.get("epoch", 0)), records, sums)


def remedies(folder: Path) -> str:
    """Explain how to recover from a lost store or key."""
    where = shlex.quote(str(folder))
    return (
        "put a backup in its place: 'streamfleet restore FILE', or "
        f"'streamfleet-broker --data-dir {where} --restore FILE'; "
        f"to go on with what is left: 'streamfleet-broker --data-dir {where} --accept-loss'"
    )


def _mark_of(meta: dict[str, str], sums: dict[Key, int]) -> tuple[int, int, int]:
    """Version, number and digest of the rows as written. A new store has none."""
    if "mark" not in meta:
        return 0, len(sums), _total(sums)
    version, count, digest = meta["mark"].split()
    return int(version), int(count), int(digest, 16)


def compare(found: Mark, marked: Mark | None, path: Path) -> None:
    """Check that the store is not older than its marker says. Raises: Damaged."""
    if marked is None:
        if found.version:
            raise Damaged(f"{path} is missing, which says whether the store is whole")
    elif marked.cluster != found.cluster and found.version:
        raise Damaged(f"it belongs to another fleet than {path}")
    elif marked.version > found.version:
        raise Damaged(f"its end is lost: it holds {_told(found)}, expected {_told(marked)}")


def _told(mark: Mark) -> str:
    return f"{mark.rows} rows at version {mark.version}"


def _refuse_exposed(path: Path) -> None:
    """Refuse a database that others can read. SQLite gives its journals the same permissions. (S8)"""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise StoreUnusable(path, f"it has the rights {mode:04o}, expected 0600: run 'chmod 600 {path}'")


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _explain(exc: Exception, folder: Path) -> str:
    if isinstance(exc, sqlite3.OperationalError) and str(exc) in _UNAVAILABLE:
        return f"cannot be used: {exc}"
    if isinstance(exc, OSError):
        return f"cannot be opened: {exc.strerror}"
    if isinstance(exc, OtherVersion):
        return f"{exc}, or an empty --data-dir"
    return f"is damaged ({exc}): {remedies(folder)}"


def _write_row(connection: sqlite3.Connection, write: Write, epoch: int) -> int:
    """Write a row and return its digest, 0 if it was removed."""
    if write.after is None:
        connection.execute("DELETE FROM rows WHERE kind = ? AND key = ?", (write.kind, write.key))
        return 0
    value = encode(write.after)
    connection.execute(
        "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", (write.kind, write.key, value, epoch)
    )
    return _sum(write.kind, write.key, value)


def _sum(kind: str, key: str, value: bytes) -> int:
    """The digest of a row, above 0."""
    content = b"\0".join((kind.encode(), key.encode(), value))
    return int.from_bytes(hashlib.blake2b(content, digest_size=_DIGEST).digest(), "big") or 1


def _total(sums: dict[Key, int]) -> int:
    """The digest of all rows, independent of their order."""
    return sum(sums.values()) % _MODULUS
