"""The rows of a fleet in PostgreSQL, which several brokers may use. It refuses writes of all but the leader.

    streamfleet_fleet    one row: who leads, its epoch and beat, and the number of transactions (the version)
    streamfleet_rows     the rows

Every write is one statement, which changes rows only where the row of the fleet still has our epoch and our
version. So a broker that was replaced changes nothing, and a write that was sent twice happens once. If its
answer is lost, it is sent again until the lease is over: what an operator is told is what has happened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from streamfleet_broker.errors import Fenced, StoreDown, StoreUnusable
from streamfleet_broker.fleet.records import Record, Write
from streamfleet_broker.leadership.candidacy import Seen
from streamfleet_broker.leadership.lease import Lease
from streamfleet_broker.storage.postgresql import (
    Connection,
    PostgresqlError,
    Rejected,
    Row,
    Unanswered,
    Unreachable,
    told,
)
from streamfleet_broker.storage.rows import Key, decode, encode
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_core.runtime.schema_version import OtherVersion

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1  # of the tables and the records in them: rises when an older broker could not use them
OLDEST = 130_000  # as PostgreSQL numbers its versions
RETRY = 0.1  # seconds between two tries of a write whose answer is lost

_HAS_TABLES = "SELECT to_regclass('streamfleet_fleet') IS NOT NULL"
_SERVER = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
_SCHEMA = """
DO $$
BEGIN
    PERFORM pg_advisory_xact_lock(6233831);  -- of several brokers that start at once, one creates them
    CREATE TABLE IF NOT EXISTS streamfleet_rows (
        kind text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        value bytea NOT NULL,
        epoch bigint NOT NULL,
        PRIMARY KEY (kind, key)
    );
    CREATE TABLE IF NOT EXISTS streamfleet_fleet (
        id integer PRIMARY KEY CHECK (id = 1),
        schema integer NOT NULL,
        cluster text NOT NULL,
        epoch bigint NOT NULL DEFAULT 0,
        beat bigint NOT NULL DEFAULT 0,
        leader text NOT NULL DEFAULT '',
        version bigint NOT NULL DEFAULT 0,
        keys text NOT NULL DEFAULT ''
    ) WITH (fillfactor = 50);
    INSERT INTO streamfleet_fleet (id, schema, cluster) VALUES (1, 1, gen_random_uuid())
        ON CONFLICT (id) DO NOTHING;
END $$
"""
_FOUND_SCHEMA = "SELECT schema FROM streamfleet_fleet"
_SEE = "SELECT epoch, beat, leader, version FROM streamfleet_fleet"
_LEAD = """
UPDATE streamfleet_fleet SET epoch = epoch + 1, beat = beat + 1, leader = %s
    WHERE epoch = %s AND beat = %s
    RETURNING epoch, version, cluster
"""
_RENEW = "UPDATE streamfleet_fleet SET beat = beat + 1 WHERE epoch = %s RETURNING beat"
_RESIGN = "UPDATE streamfleet_fleet SET beat = beat + 1, leader = '' WHERE epoch = %s"
_SET_KEYS = "UPDATE streamfleet_fleet SET keys = %s WHERE keys = '' AND %s <> ''"
_KEYS = "SELECT keys FROM streamfleet_fleet"
_SOME_ROWS = "SELECT kind, key, value FROM streamfleet_rows WHERE kind = ANY(%s)"
_ROWS = "SELECT kind, key, value FROM streamfleet_rows ORDER BY kind, key"
_STATE = "SELECT epoch, version FROM streamfleet_fleet"
_RAISE = """
UPDATE streamfleet_fleet SET epoch = %s, version = version + 1
    WHERE epoch = %s AND version = %s
    RETURNING version
"""
# One statement, as a transaction of several would hold its locks while a suspended broker is away.
_WRITE = """
WITH led AS (
    UPDATE streamfleet_fleet SET version = version + 1
        WHERE epoch = %s AND version = %s
        RETURNING epoch, version
), written AS (
    INSERT INTO streamfleet_rows (kind, key, value, epoch)
        SELECT new.kind, new.key, new.value, led.epoch
        FROM led, unnest(%s::text[], %s::text[], %s::bytea[]) AS new (kind, key, value)
        ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, epoch = excluded.epoch
), removed AS (
    DELETE FROM streamfleet_rows
        USING led, unnest(%s::text[], %s::text[]) AS old (kind, key)
        WHERE streamfleet_rows.kind = old.kind AND streamfleet_rows.key = old.key
)
SELECT version FROM led
"""


@dataclass(frozen=True, slots=True)
class _Term:
    """The time for which one broker leads."""

    epoch: int
    version: int
    cluster: str
    records: tuple[Record, ...]
    lease: Lease


class PostgresqlCandidate:
    """A broker that may lead the fleet. One thread at a time may use it.

    Raises: StoreUnusable.
    """

    def __init__(self, url: str) -> None:
        try:
            self.place = told(url)
        except ValueError as exc:
            raise StoreUnusable("", f"expected a URL of PostgreSQL, {exc}", option="--store") from exc
        self._url = url
        self._connection = Connection(url)
        try:
            self._open()
        except BaseException:
            self._connection.close()
            raise

    def see(self) -> Seen:
        """Look who leads. Raises: StoreDown."""
        try:
            (row,) = self._connection.ask(_SEE)
        except PostgresqlError as exc:
            raise StoreDown(self.place, str(exc)) from exc
        return Seen(*row)

    def lead(self, seen: Seen, name: str) -> PostgresqlStore | None:
        """Take the lead from the leader that was seen; None if it has renewed it, or another was faster.

        Args:
            name: how operators know this broker.

        Raises: StoreDown, StoreUnusable.
        """
        sent_at = boot_time()
        try:
            rows = self._connection.ask(_LEAD, (name, seen.epoch, seen.beat))
            if not rows:
                return None
            ((epoch, version, cluster),) = rows
            found = self._connection.ask(_ROWS)
        except PostgresqlError as exc:
            raise StoreDown(self.place, str(exc)) from exc
        term = _Term(epoch, version, cluster, self._decoded(found), Lease(sent_at))
        return PostgresqlStore(self._url, self.place, term)

    def records(self, kinds: Sequence[str]) -> tuple[Record, ...]:
        """Read the rows of some kinds. Raises: StoreDown, StoreUnusable."""
        try:
            found = self._connection.ask(_SOME_ROWS, (list(kinds),))
        except PostgresqlError as exc:
            raise StoreDown(self.place, str(exc)) from exc
        return self._decoded(found)

    def keys(self, own: str) -> str:
        """The public keys that all brokers of the fleet share: if there are none yet, our own.

        Raises: StoreDown.
        """
        try:
            self._connection.ask(_SET_KEYS, (own, own))
            ((keys,),) = self._connection.ask(_KEYS)
        except PostgresqlError as exc:
            raise StoreDown(self.place, str(exc)) from exc
        return str(keys)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _decoded(self, rows: list[Row]) -> tuple[Record, ...]:
        try:
            return tuple(decode(*row) for row in rows)
        except (ValueError, msgspec.ValidationError) as exc:
            raise self._unusable(f"is damaged ({exc})") from exc

    def _open(self) -> None:
        """Check the database, and create the tables in a new one. Raises: StoreUnusable."""
        try:
            ((number, encoding),) = self._connection.ask(_SERVER)
            if number < OLDEST:
                raise self._unusable(
                    f"expected PostgreSQL {OLDEST // 10_000} or later, got {number // 10_000}"
                )
            if encoding != "UTF8":
                raise self._unusable(f"expected a database in UTF8, got {encoding}")
            if not self._connection.ask(_HAS_TABLES)[0][0]:
                self._connection.ask(_SCHEMA)
            ((schema,),) = self._connection.ask(_FOUND_SCHEMA)
        except PostgresqlError as exc:
            raise self._unusable(str(exc)) from exc
        if schema != SCHEMA_VERSION:
            raise self._unusable(f"{OtherVersion(SCHEMA_VERSION, schema)}, or another database")

    def _unusable(self, reason: str) -> StoreUnusable:
        return StoreUnusable(self.place, reason, option="--store")


class PostgresqlStore:
    """The rows of a fleet, for the broker that leads it. `PostgresqlCandidate.lead` makes it."""

    def __init__(self, url: str, place: str, term: _Term) -> None:
        self.place = place
        self.records = term.records
        self.cluster = term.cluster
        self.epoch = term.epoch
        self.lease: Lease | None = term.lease
        self._lease = term.lease
        self._version = term.version
        self._writing = Connection(url)
        self._renewing = Connection(url)  # a write that waits does not keep the lease from being renewed
        self._epoch_lock = threading.Lock()  # of `epoch`, here and in the database

    def commit(self, writes: Iterable[Write]) -> None:
        """Make all writes durable, or none of them. Raises: StoreDown, Fenced."""
        rows: dict[Key, bytes | None] = {
            (each.kind, each.key): None if each.after is None else encode(each.after) for each in writes
        }
        new = [(*key, value) for key, value in rows.items() if value is not None]
        old = [key for key, value in rows.items() if value is None]
        kinds, keys, values = (list(each) for each in zip(*new, strict=True)) if new else ([], [], [])
        old_kinds, old_keys = (list(each) for each in zip(*old, strict=True)) if old else ([], [])
        self._write(_WRITE, (self.epoch, self._version, kinds, keys, values, old_kinds, old_keys), self.epoch)

    def raise_epoch(self, epoch: int) -> None:
        """Store a higher epoch, for now and for later leaders. Raises: StoreDown, Fenced."""
        with self._epoch_lock:
            self._write(_RAISE, (epoch, self.epoch, self._version), epoch)
            self.epoch = epoch

    def renew(self) -> None:
        """Renew the lease. Any thread may call it. Raises: StoreDown, Fenced."""
        with self._epoch_lock:
            sent_at = boot_time()
            try:
                rows = self._renewing.ask(_RENEW, (self.epoch,))
            except PostgresqlError as exc:
                raise StoreDown(self.place, str(exc)) from exc
            if not rows:
                raise self._fenced("another broker leads")
            self._lease.renewed(sent_at)

    def is_due(self, now: float) -> bool:
        """Never: PostgreSQL tidies up by itself."""
        return False

    def tidy(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Give up the lead, so that another broker need not wait, and close the store.

        A lease that is over needs no goodbye, which would only wait for a database that is out of reach.
        """
        if self._lease.holds(boot_time()):
            try:
                self._renewing.ask(_RESIGN, (self.epoch,))
            except PostgresqlError as exc:
                logger.warning("%s: another broker waits for the end of the lease: %s", self.place, exc)
        self._lease.lose()
        self._renewing.close()
        self._writing.close()

    def _write(self, statement: str, parameters: Sequence[object], epoch: int) -> None:
        """Execute a statement that returns the next version. `epoch`: the one after it.

        Raises: StoreDown if it did not happen; Fenced if it did not, or if that is unknown.
        """
        was_sent = False
        while True:
            try:
                rows = self._writing.ask(statement, parameters) or self._writing.ask(_STATE)
                break
            except (Rejected, Unreachable) as exc:
                # Once it was sent, a refusal says nothing about the first time: another server may refuse.
                if not was_sent:
                    raise StoreDown(self.place, str(exc)) from exc
                reason = str(exc)
            except Unanswered as exc:
                was_sent, reason = True, str(exc)
            if not self._lease.holds(boot_time()):
                raise self._fenced(f"a write was not answered: {reason}")
            time.sleep(RETRY)
        self._check(rows[0], epoch, was_sent=was_sent)
        self._version += 1

    def _check(self, row: Row, epoch: int, *, was_sent: bool) -> None:
        """Check what a write returned, or else found: its epoch and version. Raises: Fenced."""
        if len(row) == 1 or (was_sent and row == (epoch, self._version + 1)):
            return
        raise self._fenced(
            f"expected epoch {self.epoch} and version {self._version}, got {row[0]} and {row[1]}"
        )

    def _fenced(self, reason: str) -> Fenced:
        self._lease.lose()
        return Fenced(self.place, reason)
