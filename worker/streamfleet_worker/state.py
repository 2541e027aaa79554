"""What a worker remembers of its pipelines, also when the power is cut: one SQLite file.

It is another broker's from the first row to the last, or none of it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from streamfleet_worker.reconcile import Forget, Persist, Row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS worker (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    broker_key TEXT NOT NULL,
    seen_epoch INTEGER NOT NULL,
    starts INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS pipelines (
    pipeline_id TEXT PRIMARY KEY,
    gen INTEGER NOT NULL,
    start_gen INTEGER NOT NULL,
    inc INTEGER NOT NULL,
    ended_start_gen INTEGER
);
"""


class StateError(Exception):
    """The file cannot be used."""


class State:
    """The rows of one worker. Any thread may use it, one at a time.

    A commit is on the disk when a method returns. Raises: sqlite3.Error where the disk does not take it.
    """

    def __init__(self, path: Path, broker_key: str) -> None:
        """Raises: StateError."""
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
            self._begin(broker_key)
        except sqlite3.Error as exc:
            self._connection.close()
            raise StateError(
                f"{path}: {exc}. Without this file the worker begins anew, and plays ended files again"
            ) from exc

    def _begin(self, broker_key: str) -> None:
        """Generations and epochs of another broker mean nothing to this one."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            (known,) = self._connection.execute("SELECT max(broker_key) FROM worker").fetchone()
            if known != broker_key:
                self._connection.execute("DELETE FROM worker")
                self._connection.execute("DELETE FROM pipelines")
            self._connection.execute(
                "INSERT INTO worker VALUES (1, ?, 0, 1) ON CONFLICT DO UPDATE SET starts = starts + 1",
                (broker_key,),
            )

    @property
    def starts(self) -> int:
        """How often the agent has been started, this time included."""
        return int(self._connection.execute("SELECT starts FROM worker").fetchone()[0])

    @property
    def seen_epoch(self) -> int:
        """The highest epoch of the broker that was seen."""
        return int(self._connection.execute("SELECT seen_epoch FROM worker").fetchone()[0])

    def remember_epoch(self, epoch: int) -> None:
        """It never falls."""
        self._connection.execute("UPDATE worker SET seen_epoch = max(seen_epoch, ?)", (epoch,))

    def rows(self) -> list[Row]:
        """What is remembered."""
        found = self._connection.execute(
            "SELECT pipeline_id, gen, start_gen, inc, ended_start_gen FROM pipelines ORDER BY pipeline_id"
        )
        return [Row(*row) for row in found]

    def write(self, changes: Iterable[Persist | Forget]) -> None:
        """All of these or none."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                if isinstance(change, Forget):
                    self._connection.execute(
                        "DELETE FROM pipelines WHERE pipeline_id = ?", (change.pipeline_id,)
                    )
                    continue
                row = change.row
                self._connection.execute(
                    "INSERT INTO pipelines (pipeline_id, gen, start_gen, inc, ended_start_gen)"
                    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (pipeline_id) DO UPDATE SET gen = excluded.gen,"
                    " start_gen = excluded.start_gen, inc = excluded.inc,"
                    " ended_start_gen = excluded.ended_start_gen",
                    (row.pipeline_id, row.gen, row.start_gen, row.inc, row.ended_start_gen),
                )

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()
