"""The state that a worker stores about its pipelines, which survives a power failure: one SQLite file.

All rows belong to one broker: with another one, the file starts empty. The file contains the digest of its
content. What is only of use while something else is missing has its own, and is ignored if it is damaged:
assignments and the number of the device, for the time without a broker, and the models in use, for the time
without the desired ones. On a full disk only this process has the state; all of it is written as soon as
there is space.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from streamfleet_core.protocol.values import Assignment, ModelRef
from streamfleet_core.runtime.schema_version import check_version, has_tables
from streamfleet_worker.decisions.reconcile_actions import Forget, Persist
from streamfleet_worker.decisions.reconcile_events import Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA_VERSION = 1  # of the tables
_SCHEMA = f"""
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE IF NOT EXISTS worker (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    broker_key TEXT NOT NULL,
    seen_epoch INTEGER NOT NULL,
    starts INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS pipelines (
    pipeline_id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    run_generation INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    ended_run_generation INTEGER
);
CREATE TABLE IF NOT EXISTS assignments (
    pipeline_id TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS serving (
    pipeline_id TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS short_id (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    value INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS digest (only INTEGER PRIMARY KEY CHECK (only = 1), value TEXT NOT NULL);
"""


class StateError(Exception):
    """The file is damaged or cannot be opened."""


@dataclass(frozen=True, slots=True)
class _Serving:
    """The models that this camera of a pipeline has used last."""

    run_generation: int
    incarnation: int
    models: tuple[ModelRef, ...]
    served: int = 0  # the generation under which they go on instead of others


@dataclass(slots=True)
class _Known:
    broker_key: str
    seen_epoch: int = 0
    starts: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    short_id: int = 0  # of the device; 0: unknown

    @property
    def digest(self) -> str:
        """The digest of everything that has none of its own, as earlier versions wrote it."""
        plain = msgspec.to_builtins(self)
        del plain["short_id"]
        for row in plain["rows"].values():
            del row["assignment"], row["serving"], row["served"]
        return _digest(msgspec.json.encode(plain, order="sorted"))


class State:
    """The rows of one worker. Any thread may use it, one at a time.

    A commit is on the disk when a method returns. Raises: sqlite3.Error if writing fails; the change is then
    written together with the next one.
    """

    def __init__(self, path: Path, broker_key: str) -> None:
        """Open the file. Raises: StateError."""
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # No other process opens it, so SQLite needs no shared-memory file, for which there may be no
            # space.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            known = _read(self._connection)
        except (sqlite3.Error, ValueError) as exc:
            self._connection.close()
            raise StateError(
                f"{path}: {exc}. Without this file the worker has no state, and plays ended files again:"
                f" mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
            ) from exc
        # Generations and epochs of different brokers cannot be compared.
        if known is None or known.broker_key != broker_key:
            known = _Known(broker_key, starts=known.starts if known else 0)
        known.starts += 1
        self._known = known
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._save()
        except sqlite3.Error as exc:
            logger.warning("%s: %s; until there is space, a restart loses changes", path, exc)

    @property
    def starts(self) -> int:
        """Number of starts of the agent, including this one."""
        return self._known.starts

    @property
    def seen_epoch(self) -> int:
        """The highest known epoch of the broker."""
        return self._known.seen_epoch

    def remember_epoch(self, epoch: int) -> None:
        """Store an epoch of the broker, unless a higher one is known."""
        self._known.seen_epoch = max(self._known.seen_epoch, epoch)
        self._save()

    @property
    def short_id(self) -> int:
        """The number of the device, as the broker told it last; 0 if it never did."""
        return self._known.short_id

    def remember_short_id(self, short_id: int) -> None:
        """Store the number of the device."""
        self._known.short_id = short_id
        self._save()

    def rows(self) -> list[Row]:
        """The stored rows."""
        return [row for _, row in sorted(self._known.rows.items())]

    def write(self, changes: Iterable[Persist | Forget]) -> None:
        """Write these changes atomically."""
        for change in changes:
            if isinstance(change, Forget):
                self._known.rows.pop(change.pipeline_id, None)
            else:
                self._known.rows[change.row.pipeline_id] = change.row
        self._save()

    def tidy(self) -> None:
        """Merge the write-ahead log into the file. If it fails, a later call repeats it."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _save(self) -> None:
        """Write the complete state, which is small and includes failed changes. Raises: sqlite3.Error."""
        known, connection = self._known, self._connection
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";")[:-1]:
                connection.execute(statement)
            for table in ("worker", "pipelines", "assignments", "serving", "short_id", "digest"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 (our own names)
            connection.execute(
                "INSERT INTO worker VALUES (1, ?, ?, ?)", (known.broker_key, known.seen_epoch, known.starts)
            )
            connection.executemany(
                "INSERT INTO pipelines VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        row.pipeline_id,
                        row.generation,
                        row.run_generation,
                        row.incarnation,
                        row.ended_run_generation,
                    )
                    for row in known.rows.values()
                ],
            )
            rows = known.rows.values()
            _insert(connection, "assignments", {row.pipeline_id: row.assignment for row in rows})
            _insert(connection, "serving", {row.pipeline_id: _serving(row) for row in rows})
            value = known.short_id
            connection.execute("INSERT INTO short_id VALUES (1, ?, ?)", (value, _digest(b"%d" % value)))
            connection.execute("INSERT INTO digest VALUES (1, ?)", (known.digest,))


def _read(connection: sqlite3.Connection) -> _Known | None:
    """Read the state; None in a new file. Raises: sqlite3.Error, ValueError."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ValueError(f"damaged: {verdict}")
    check_version(connection, SCHEMA_VERSION)
    if not has_tables(connection):
        return None
    found = connection.execute("SELECT broker_key, seen_epoch, starts FROM worker").fetchone()
    if found is None:
        raise ValueError("damaged: it has no row of the worker")
    rows = connection.execute(
        "SELECT pipeline_id, generation, run_generation, incarnation, ended_run_generation FROM pipelines"
    )
    broker_key, seen_epoch, starts = found
    known = _Known(
        broker_key,
        seen_epoch,
        starts,
        {
            name: Row(
                pipeline_id=name,
                generation=generation,
                run_generation=run_generation,
                incarnation=incarnation,
                ended_run_generation=ended,
            )
            for name, generation, run_generation, incarnation, ended in rows
        },
    )
    if connection.execute("SELECT value FROM digest").fetchone() != (known.digest,):
        raise ValueError("damaged: its content does not match its digest")
    known.short_id = _read_short_id(connection)
    # An earlier version leaves these tables as they are: their rows may be of an earlier generation.
    for name, assignment in _read_values(connection, "assignments", Assignment):
        row = known.rows.get(name)
        if row is not None and _run_of(row) == _run_of(assignment):
            known.rows[name] = replace(row, assignment=assignment)
    for name, serving in _read_values(connection, "serving", _Serving):
        row = known.rows.get(name)
        if row is not None and (row.run_generation, row.incarnation) == (
            serving.run_generation,
            serving.incarnation,
        ):
            known.rows[name] = replace(row, serving=serving.models, served=serving.served)
    return known


def _read_short_id(connection: sqlite3.Connection) -> int:
    """The number of the device; 0 if there is none that is not damaged. Raises: sqlite3.Error."""
    if not _has_table(connection, "short_id"):
        return 0
    found = connection.execute("SELECT value, digest FROM short_id").fetchone()
    if found is None or not isinstance(found[0], int) or _digest(b"%d" % found[0]) != found[1]:
        return 0
    return found[0]


def _insert(connection: sqlite3.Connection, table: str, values: Mapping[str, object | None]) -> None:
    """Write values of pipelines, each with its digest. Raises: sqlite3.Error."""
    encoded = [(name, msgspec.json.encode(value)) for name, value in values.items() if value is not None]
    connection.executemany(
        f"INSERT INTO {table} VALUES (?, ?, ?)",  # noqa: S608 (our own names)
        [(name, value, _digest(value)) for name, value in encoded],
    )


def _read_values(connection: sqlite3.Connection, table: str, kind: type[T]) -> Iterator[tuple[str, T]]:
    """Read the values of pipelines that are not damaged. Raises: sqlite3.Error."""
    if not _has_table(connection, table):
        return
    query = f"SELECT pipeline_id, CAST(value AS BLOB), digest FROM {table}"  # noqa: S608 (our own names)
    for pipeline_id, encoded, digest in connection.execute(query).fetchall():
        value = _decoded(encoded, kind) if _digest(encoded) == digest else None
        if value is None:
            logger.warning("%s: damaged or of another version: its %s is ignored", pipeline_id, table)
        else:
            yield pipeline_id, value


def _has_table(connection: sqlite3.Connection, table: str) -> bool:
    """Whether there is this table: an earlier version has fewer. Raises: sqlite3.Error."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    return found is not None


def _decoded(value: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        return None


def _run_of(value: Row | Assignment) -> tuple[int, int]:
    return value.generation, value.run_generation


def _serving(row: Row) -> _Serving | None:
    if not row.serving:
        return None
    return _Serving(row.run_generation, row.incarnation, row.serving, row.served)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
