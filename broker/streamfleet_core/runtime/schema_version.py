"""The version of the tables in an SQLite file. A file of another version is refused before it is read."""

from __future__ import annotations

import sqlite3


class OtherVersion(ValueError):
    """The tables of a file are of another version."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"expected version {expected} of its tables, got {found}: use the version of Streamfleet "
            "that wrote it"
        )
        self.expected = expected
        self.found = found


def check_version(connection: sqlite3.Connection, version: int) -> None:
    """Check that a file with tables has this version. Raises: OtherVersion, sqlite3.Error."""
    ((found,),) = connection.execute("PRAGMA user_version")
    if found != version and has_tables(connection):
        raise OtherVersion(version, found)


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether a file has tables: a new one has none, and no version. Raises: sqlite3.Error."""
    ((count,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
    return bool(count)
