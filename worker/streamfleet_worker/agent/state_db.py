"""What a worker remembers of its pipelines, also when the power is cut: one SQLite file.

It is another broker's from the first row to the last, or none of it is. The file holds the digest of what is
in it. On a full disk it is known to this process alone; as soon as there is room, all of it is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shlex
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from streamfleet_worker.decisions.reconcile_actions import Forget, Persist
from streamfleet_worker.decisions.reconcile_events import Row

logger = logging.getLogger(__name__)

_SCHEMA = """
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
CREATE TABLE IF NOT EXISTS digest (only INTEGER PRIMARY KEY CHECK (only = 1), value TEXT NOT NULL);
"""


class StateError(Exception):
    """The file cannot be used."""


@dataclass(slots=True)
class _Known:
    broker_key: str
    seen_epoch: int = 0
    starts: int = 0
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return hashlib.blake2b(msgspec.json.encode(self, order="sorted"), digest_size=16).hexdigest()


class State:
    """The rows of one worker. Any thread may use it, one at a time.

    A commit is on the disk when a method returns. Raises: sqlite3.Error where the disk does not take it; what
    was to be remembered is then written with the next change.
    """

    def __init__(self, path: Path, broker_key: str) -> None:
        """Raises: StateError."""
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # Nobody else has it open, and so needs no index in another file, for which there may be no room.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            known = _read(self._connection)
        except (sqlite3.Error, ValueError) as exc:
            self._connection.close()
            raise StateError(
                f"{path}: {exc}. Without this file the worker begins anew, and plays ended files again:"
                f" mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
            ) from exc
        # Generations and epochs of another broker mean nothing to this one.
        if known is None or known.broker_key != broker_key:
            known = _Known(broker_key, starts=known.starts if known else 0)
        known.starts += 1
        self._known = known
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._save()
        except sqlite3.Error as exc:
            logger.warning("%s: %s; what happens is forgotten at a restart until there is room", path, exc)

    @property
    def starts(self) -> int:
        """How often the agent has been started, this time included."""
        return self._known.starts

    @property
    def seen_epoch(self) -> int:
        """The highest epoch of the broker that was seen."""
        return self._known.seen_epoch

    def remember_epoch(self, epoch: int) -> None:
        """It never falls."""
        self._known.seen_epoch = max(self._known.seen_epoch, epoch)
        self._save()

    def rows(self) -> list[Row]:
        """What is remembered."""
        return [row for _, row in sorted(self._known.rows.items())]

    def write(self, changes: Iterable[Persist | Forget]) -> None:
        """All of these or none."""
        for change in changes:
            if isinstance(change, Forget):
                self._known.rows.pop(change.pipeline_id, None)
            else:
                self._known.rows[change.row.pipeline_id] = change.row
        self._save()

    def tidy(self) -> None:
        """Bring all that the journal holds into the one file. What does not work now is done another time."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def _save(self) -> None:
        """All of it: it is little, and what could not be written before is in it. Raises: sqlite3.Error."""
        known, connection = self._known, self._connection
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";")[:-1]:
                connection.execute(statement)
            for table in ("worker", "pipelines", "digest"):
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
            connection.execute("INSERT INTO digest VALUES (1, ?)", (known.digest,))


def _read(connection: sqlite3.Connection) -> _Known | None:
    """None where nothing was written yet. Raises: sqlite3.Error, ValueError."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ValueError(f"damaged: {verdict}")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if not tables:
        return None
    found = connection.execute("SELECT broker_key, seen_epoch, starts FROM worker").fetchone()
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
    if "digest" in tables and connection.execute("SELECT value FROM digest").fetchone() != (known.digest,):
        raise ValueError("damaged: what it holds is not what was written")
    return known
