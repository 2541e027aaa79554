"""What the store has taken is there whatever happens, and what is wrong with a file is said."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from streamfleet_broker.errors import StoreDown, StoreUnusable
from streamfleet_broker.fleet.records import (
    DeviceRecord,
    FloorRecord,
    KeyRecord,
    ModelRecord,
    PipelineRecord,
    Record,
    SubscriberRecord,
    TokenRecord,
    Write,
)
from streamfleet_broker.storage import store as module
from streamfleet_broker.storage.store import Store
from streamfleet_core.protocol.values import PipelineSpec, SourceSpec, UdpSink, to_plain

MODEL = ModelRecord("parts/1", "ab" * 32)
SPEC = PipelineSpec(
    model=MODEL.ref,
    sources=(SourceSpec("rtsp://10.0.0.9/door", properties={"fps": 10.0}),),
    sinks=(UdpSink("127.0.0.1", 12000),),
    max_fps=15.0,
    confidence=0.3,
)
ROWS: dict[tuple[str, str], Record] = {
    ("device", "cam-7"): DeviceRecord(
        device="cam-7", public_key="k" * 40, short_id=3, labels={"site": "hall-1"}
    ),
    ("floor", "generation"): FloorRecord(17),
    ("key", "again"): KeyRecord("again", "digest", "gate", 1.5e9),
    ("model", "parts/1"): MODEL,
    ("pipeline", "door"): PipelineRecord(
        pipeline_id="door",
        generation=2**40,
        run_generation=3,
        desired_status="pause",
        spec=SPEC,
        requested="cam-7",
        device="cam-7",
        created=1,
        changed_by=bytes(range(16)),
    ),
    ("pipeline", "gate"): PipelineRecord(
        pipeline_id="gate",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=SPEC,
        requested=None,
        device=None,
        created=2,
    ),
    ("pipeline", "wide"): PipelineRecord(
        pipeline_id="wide",
        generation=9,
        run_generation=9,
        desired_status="run",
        spec=replace(SPEC, sources=(SourceSpec("rtsp://10.0.0.9/door"), SourceSpec(0, max_fps=5.0))),
        requested=None,
        device="cam-8",
        created=3,
        selector={"site": "hall-1"},
        labels={"line": "2"},
        version=4,
        created_at=1.5e9,
        leaving="cam-7",
    ),
    ("subscriber", "wall"): SubscriberRecord("wall", "w" * 40),
    ("token", "t" * 40): TokenRecord("t" * 40, "cam-8", 1.5e9),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def put(kind: str, key: str, record: Record) -> Write:
    return Write(kind, key, None, record)


def test_every_row_is_read_as_it_was_written(folder: Path) -> None:
    store = Store(folder)
    assert store.records == ()
    store.commit(put(kind, key, record) for (kind, key), record in ROWS.items())
    store.close()

    store = Store(folder)

    assert store.records == tuple(ROWS.values())
    store.close()


def test_a_row_of_an_earlier_version_is_read(folder: Path) -> None:
    store = Store(folder)
    gate = PipelineRecord(
        pipeline_id="gate",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=SPEC,
        requested=None,
        device=None,
        created=2,
    )
    plain = to_plain(gate)
    for name in ("selector", "labels", "version", "created_at", "leaving"):
        del plain[name]
    store._connection.execute("INSERT INTO rows VALUES ('pipeline', 'gate', ?, 1)", (msgpack.packb(plain),))
    store._connection.execute("DELETE FROM meta WHERE name = 'mark'")
    store.close()
    (folder / "store.version").unlink()

    store = Store(folder)

    assert store.records == (gate,)
    store.close()


def test_a_row_is_replaced_and_removed(folder: Path) -> None:
    store = Store(folder)
    store.commit(put(kind, key, record) for (kind, key), record in ROWS.items())
    gate = ROWS["pipeline", "gate"]
    assert isinstance(gate, PipelineRecord)
    store.commit(
        [Write("pipeline", "gate", gate, replace(gate, generation=2)), Write("model", MODEL.id, MODEL, None)]
    )
    store.close()

    store = Store(folder)

    assert replace(gate, generation=2) in store.records
    assert MODEL not in store.records
    assert len(store.records) == len(ROWS) - 1
    store.close()


def test_an_epoch_that_was_raised_is_below_that_of_the_next_start(folder: Path) -> None:
    store = Store(folder)
    store.raise_epoch(8)
    assert store.epoch == 8
    store.close()

    store = Store(folder)

    assert store.epoch == 9
    store.close()


def test_each_start_has_a_higher_epoch_of_one_cluster(folder: Path) -> None:
    seen = []
    for _ in range(3):
        store = Store(folder)
        seen.append((store.epoch, store.cluster))
        store.close()

    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert len({cluster for _, cluster in seen}) == 1


def test_a_commit_is_whole_or_not_at_all(folder: Path) -> None:
    store = Store(folder)
    broken = Write("pipeline", "\ud800", None, ROWS["pipeline", "gate"])

    with pytest.raises(UnicodeEncodeError):
        store.commit([put("model", MODEL.id, MODEL), broken])
    store.commit([put("floor", "generation", FloorRecord(1))])
    store.close()

    store = Store(folder)
    assert store.records == (FloorRecord(1),)
    store.close()


def test_a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room(folder: Path) -> None:
    store = Store(folder)
    store.commit([put("floor", "generation", FloorRecord(1))])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = replace(SPEC, sources=(SourceSpec("rtsp://" + "x" * 4_000),) * 5)
    gate = PipelineRecord(
        pipeline_id="gate",
        generation=1,
        run_generation=1,
        desired_status="run",
        spec=large,
        requested=None,
        device=None,
        created=2,
    )

    with pytest.raises(StoreDown, match="cannot write: database or disk is full"):
        store.commit([put("floor", "generation", FloorRecord(2)), put("pipeline", "gate", gate)])
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.commit([put("pipeline", "gate", gate)])
    store.close()

    store = Store(folder)
    assert store.records == (FloorRecord(1), gate)
    store.close()


def test_a_locked_file_refuses_writes_and_takes_them_again(folder: Path) -> None:
    store = Store(folder)
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreDown, match="database is locked"):
        store.commit([put("floor", "generation", FloorRecord(1))])
    blocker.execute("ROLLBACK")
    blocker.close()

    store.commit([put("floor", "generation", FloorRecord(1))])
    store.close()


def test_a_file_that_is_locked_for_a_moment_is_not_opened_for_oneself_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(folder).close()
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
        Store(folder)


def test_a_first_start_that_is_cut_short_leaves_nothing_half_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = module._SCHEMA
    monkeypatch.setattr(module, "_SCHEMA", schema.replace("TABLE rows", "TABLE meta"))  # it exists
    with pytest.raises(StoreUnusable, match="meta already exists"):
        Store(folder)
    monkeypatch.setattr(module, "_SCHEMA", schema)

    store = Store(folder)

    assert store.records == ()
    store.close()


def test_one_directory_is_one_store_s(folder: Path) -> None:
    store = Store(folder)

    with pytest.raises(StoreUnusable, match="another broker is running on this data directory"):
        Store(folder)

    store.close()
    Store(folder).close()


def test_a_damaged_file_is_said_to_be_damaged_and_what_to_do(folder: Path) -> None:
    store = Store(folder)
    store.commit(put(kind, key, record) for (kind, key), record in ROWS.items())
    store.close()
    content = bytearray(store.path.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    store.path.write_bytes(content)

    for _ in range(2):
        with pytest.raises(StoreUnusable, match=r"--data-dir: .*store.db: is damaged .* backup"):
            Store(folder)


def test_what_is_no_database_is_said_to_be_damaged(folder: Path) -> None:
    path = folder / "store.db"
    path.write_bytes(b"not a database" * 100)
    path.chmod(0o600)

    with pytest.raises(StoreUnusable, match=r"store.db: is damaged"):
        Store(folder)


def test_a_row_of_a_newer_version_is_not_thrown_away(folder: Path) -> None:
    store = Store(folder)
    store._connection.execute("INSERT INTO rows VALUES ('drone', 'd', x'80', 1)")
    store.close()

    with pytest.raises(StoreUnusable, match="drone/d is of a kind that this version does not know"):
        Store(folder)


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
        Store(folder)

    assert str(refused.value) == (
        f"--data-dir: {path}: expected version {module.SCHEMA_VERSION} of its tables, got {version}: use the "
        "version of Streamfleet that wrote it, or an empty --data-dir"
    )
    assert path.read_bytes() == content


def test_a_new_store_has_the_version(folder: Path) -> None:
    Store(folder).close()

    with contextlib.closing(sqlite3.connect(folder / "store.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (module.SCHEMA_VERSION,)


def test_a_directory_in_its_place_is_an_error(folder: Path) -> None:
    (folder / "store.db").mkdir()

    with pytest.raises(StoreUnusable, match=r"store.db: cannot be opened: Is a directory"):
        Store(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_is_an_error(folder: Path) -> None:
    Store(folder).close()
    (folder / "store.db").chmod(0o400)

    with pytest.raises(StoreUnusable, match=r"store.db: cannot be opened: Permission denied"):
        Store(folder)


def test_a_file_that_others_may_read_is_refused(folder: Path) -> None:
    Store(folder).close()
    (folder / "store.db").chmod(0o644)

    with pytest.raises(StoreUnusable, match="it has the rights 0644, expected 0600"):
        Store(folder)


_WRITER = """
import sys
from pathlib import Path
from streamfleet_broker.fleet.records import FloorRecord, SubscriberRecord, Write
from streamfleet_broker.storage.store import Store

store = Store(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    store.commit([
        Write("floor", "generation", None, FloorRecord(number)),
        Write("subscriber", f"s{number:06}", None, SubscriberRecord(f"s{number:06}", "k" * 40)),
    ])
    print(number, flush=True)
"""


def test_what_was_answered_survives_kill_9(folder: Path) -> None:
    answered = 0
    for lines in (1, 7, 150):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                number = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            # What was printed before the kill was answered, too.
            number = max([number, *map(int, writer.stdout.read().split())])
        answered = max(answered, number)

        store = Store(folder)
        floor = next(record for record in store.records if isinstance(record, FloorRecord))
        names = {record.name for record in store.records if isinstance(record, SubscriberRecord)}
        store.close()

        assert {f"s{i:06}" for i in range(1, number + 1)} <= names
        assert floor.generation >= number, "both writes of a commit, or none"
