"""One connection to PostgreSQL on which no question waits for longer than its limit.

An answer says yes or no. Without an answer, a write may have happened: the errors tell these cases apart.

PostgresqlError
├── Unreachable: there is no connection, and nothing was sent
├── Unanswered: it was sent, and may have happened
└── Rejected: the database answered that it did not do it
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

ANSWER_TIMEOUT = 2.0  # seconds
CONNECT_TIMEOUT = 2  # seconds for each host of the URL; psycopg takes no less
APPLICATION = "streamfleet-broker"
_CONNECTION: dict[str, int | str] = {
    "application_name": APPLICATION,
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 1,
    "keepalives_count": 3,
}
# Each statement is a transaction of its own, so that a broker that is suspended holds no lock.
_SESSION = f"""
SET default_transaction_isolation = 'read committed';
SET statement_timeout = {int(ANSWER_TIMEOUT * 750)}
"""  # ms; sooner than we give up, so that there is an answer
# The session of an administrator who turned it off for speed loses acknowledged writes.
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)

Row = tuple[Any, ...]


class PostgresqlError(Exception):
    """A statement that was not answered as it should be."""


class Unreachable(PostgresqlError):
    """There is no connection. Nothing was sent."""


class Unanswered(PostgresqlError):
    """It was sent, and there is no answer: it may have happened, or may happen yet."""


class Rejected(PostgresqlError):
    """The database answered that it did not do it."""


class Connection:
    """A connection that is made when it is needed. One thread at a time may use it."""

    def __init__(self, url: str, *, timeout: float = ANSWER_TIMEOUT) -> None:
        self._url = url
        self._timeout = timeout
        self._open: _Bounded | None = None

    def ask(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Execute one statement, and return its rows. Raises: PostgresqlError."""
        if self._open is None:
            self._open = self._connected()
        try:
            cursor = self._open.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as exc:
            reason = str(exc).strip()
            if _is_answer(exc):
                raise Rejected(reason) from exc
            self.close()
            raise Unanswered(reason) from exc

    def close(self) -> None:
        """Close the connection. The next statement makes another one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _connected(self) -> _Bounded:
        try:
            connection = _Bounded.connect(make_conninfo(self._url, **_CONNECTION), autocommit=True)
        except psycopg.Error as exc:
            raise Unreachable(str(exc).strip()) from exc
        connection.limit = self._timeout
        try:
            connection.execute(_SESSION)
            connection.execute(_DURABLE)
        except psycopg.Error as exc:
            connection.close()
            raise Unreachable(str(exc).strip()) from exc
        return connection


class _Bounded(psycopg.Connection[Row]):
    """A connection on which a wait for an answer ends."""

    limit = ANSWER_TIMEOUT  # seconds

    def wait(self, steps: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        limit = self.limit if timeout is None else timeout
        return super().wait(_until(steps, time.monotonic() + limit), interval)


def _until(steps: PQGen[RV], deadline: float) -> PQGen[RV]:
    """The same, until a time. Raises: psycopg.OperationalError."""
    try:
        waiting = next(steps)
        while True:
            ready = yield waiting
            if time.monotonic() >= deadline:
                raise psycopg.OperationalError("no answer in time")
            waiting = steps.send(ready)
    except StopIteration as end:
        found: RV = end.value
        return found


def told(url: str) -> str:
    """A URL without its secrets. Raises: ValueError."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error as exc:
        raise ValueError(str(exc).strip()) from None
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{parts.get('host', '')}{port}/{parts.get('dbname', '')}"


def _is_answer(exc: psycopg.Error) -> bool:
    """Whether the database has said what became of the statement.

    Class 08 is a broken connection, and 57P a server that ends: it may have committed before.
    """
    if not isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError):
        return True
    return exc.sqlstate is not None and not exc.sqlstate.startswith(("08", "57P"))
