"""What is wrong with the file of a store is said. What all stores do is in `test_store_contract`."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from streamfleet_broker.errors import StoreDown, StoreUnusable
from streamfleet_broker.fleet.records import FloorRecord
from streamfleet_broker.storage import sqlite_store as module
from streamfleet_broker.storage.sqlite_store import SqliteStore
from streamfleet_core.protocol.values import SourceSpec, to_plain
from tests.broker.storage.test_store_contract import GATE, ROWS, SPEC, put


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_a_row_of_an_earlier_version_is_read(folder: Path) -> None:
    store = SqliteStore(folder)
    plain = to_plain(GATE)
    for name in ("selector", "labels", "version", "created_at", "leaving"):
        del plain[name]
    store._connection.execute("INSERT INTO rows VALUES ('pipeline', 'gate', ?, 1)", (msgpack.packb(plain),))
    store._connection.execute("DELETE FROM meta WHERE name = 'mark'")
    store.close()
    (folder / "store.version").unlink()

    store = SqliteStore(folder)

    assert store.records == (GATE,)
    store.close()


def test_a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room(folder: Path) -> None:
    store = SqliteStore(folder)
    store.commit([put("floor", "generation", FloorRecord(1))])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = replace(SPEC, sources=(SourceSpec("rtsp://" + "x" * 4_000),) * 5)
    gate = replace(GATE, spec=large)

    with pytest.raises(StoreDown, match="cannot write: database or disk is full"):
        store.commit([put("floor", "generation", FloorRecord(2)), put("pipeline", "gate", gate)])
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.commit([put("pipeline", "gate", gate)])
    store.close()

    store = SqliteStore(folder)
    assert store.records == (FloorRecord(1), gate)
    store.close()


def test_a_file_that_is_locked_for_a_moment_is_not_opened_for_oneself_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SqliteStore(folder).close()
    monkeypatch.setattr(module, "BUSY_TIMEOUT", 0.01)
    blocker = sqlite3.connect(folder / "store.db", isolation_level=None)
    blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
    blocker.execute("BEGIN IMMEDIATE")
    prepare = module._prepare

    def prepare_once(connection: sqlite3.Connection) -> None:
        try:
            prepare(connection)
        finally:
            blocker.close()

    monkeypatch.setattr(module, "_prepare", prepare_once)

    with pytest.raises(StoreUnusable, match="cannot be used: database is locked"):
        SqliteStore(folder)


def test_a_first_start_that_is_cut_short_leaves_nothing_half_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = module._SCHEMA
    monkeypatch.setattr(module, "_SCHEMA", schema.replace("TABLE rows", "TABLE meta"))  # it exists
    with pytest.raises(StoreUnusable, match="meta already exists"):
        SqliteStore(folder)
    monkeypatch.setattr(module, "_SCHEMA", schema)

    store = SqliteStore(folder)

    assert store.records == ()
    store.close()


def test_one_directory_is_one_store_s(folder: Path) -> None:
    store = SqliteStore(folder)

    with pytest.raises(StoreUnusable, match="another broker is running on this data directory"):
        SqliteStore(folder)

    store.close()
    SqliteStore(folder).close()


def test_a_damaged_file_is_said_to_be_damaged_and_what_to_do(folder: Path) -> None:
    store = SqliteStore(folder)
    store.commit(put(kind, key, record) for (kind, key), record in ROWS.items())
    store.close()
    content = bytearray(store.path.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    store.path.write_bytes(content)

    for _ in range(2):
        with pytest.raises(StoreUnusable, match=r"--data-dir: .*store.db: is damaged .* backup"):
            SqliteStore(folder)


def test_what_is_no_database_is_said_to_be_damaged(folder: Path) -> None:
    path = folder / "store.db"
    path.write_bytes(b"not a database" * 100)
    path.chmod(0o600)

    with pytest.raises(StoreUnusable, match=r"store.db: is damaged"):
        SqliteStore(folder)


def test_a_row_of_a_newer_version_is_not_thrown_away(folder: Path) -> None:
    store = SqliteStore(folder)
    store._connection.execute("INSERT INTO rows VALUES ('drone', 'd', x'80', 1)")
    store.close()

    with pytest.raises(StoreUnusable, match="drone/d is of a kind that this version does not know"):
        SqliteStore(folder)


@pytest.mark.parametrize("version", [0, module.SCHEMA_VERSION + 1])
@pytest.mark.parametrize("has_rows", [False, True])
def test_a_store_of_another_version_is_refused_and_left_as_it_is(
    folder: Path, version: int, has_rows: bool
) -> None:
    """Empty tables of an older one opened, and the first write failed."""
    path = folder / "store.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute(f"PRAGMA user_version = {version}")
        other.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        other.execute("CREATE TABLE rows (kind TEXT, key TEXT, value BLOB, rev INTEGER, more TEXT)")
        if has_rows:
            other.execute("INSERT INTO rows VALUES ('floor', 'generation', x'80', 1, '')")
    path.chmod(0o600)
    content = path.read_bytes()

    with pytest.raises(StoreUnusable) as refused:
        SqliteStore(folder)

    assert str(refused.value) == (
        f"--data-dir: {path}: expected version {module.SCHEMA_VERSION} of its tables, got {version}: use the "
        "version of Streamfleet that wrote it, or an empty --data-dir"
    )
    assert path.read_bytes() == content


def test_a_new_store_has_the_version(folder: Path) -> None:
    SqliteStore(folder).close()

    with contextlib.closing(sqlite3.connect(folder / "store.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (module.SCHEMA_VERSION,)


def test_a_directory_in_its_place_is_an_error(folder: Path) -> None:
    (folder / "store.db").mkdir()

    with pytest.raises(StoreUnusable, match=r"store.db: cannot be opened: Is a directory"):
        SqliteStore(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_is_an_error(folder: Path) -> None:
    SqliteStore(folder).close()
    (folder / "store.db").chmod(0o400)

    with pytest.raises(StoreUnusable, match=r"store.db: cannot be opened: Permission denied"):
        SqliteStore(folder)


def test_a_file_that_others_may_read_is_refused(folder: Path) -> None:
    SqliteStore(folder).close()
    (folder / "store.db").chmod(0o644)

    with pytest.raises(StoreUnusable, match="it has the rights 0644, expected 0600"):
        SqliteStore(folder)
