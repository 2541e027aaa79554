"""What a worker remembers."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from streamfleet_core.protocol.values import ModelRef
from streamfleet_worker.agent.state_db import State, StateError
from streamfleet_worker.decisions.reconcile_actions import Forget, Persist
from streamfleet_worker.decisions.reconcile_events import Row
from tests.fakes.disks import fill_up, small_disk
from tests.fakes.reconciling import assignment, row_of

KEY = "k" * 40
DOOR = Row(pipeline_id="door", generation=3, run_generation=2, incarnation=5)
GATE = Row(pipeline_id="gate", generation=1, run_generation=1, incarnation=1, ended_run_generation=1)


def test_rows_and_the_epoch_outlive_the_process(tmp_path: Path) -> None:
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(DOOR), Persist(GATE)])
    state.remember_epoch(7)
    state.remember_short_id(3)
    state.close()

    again = State(tmp_path / "worker.db", KEY)

    assert again.rows() == [DOOR, GATE]
    assert (again.seen_epoch, again.starts, again.short_id) == (7, 2, 3)
    again.close()


@pytest.mark.parametrize(
    "damage",
    ["UPDATE short_id SET value = 4", "UPDATE short_id SET value = 'x'", "DROP TABLE short_id"],
)
def test_a_number_of_the_device_that_is_damaged_or_missing_is_unknown(tmp_path: Path, damage: str) -> None:
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(DOOR)])
    state.remember_short_id(3)
    state.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db")) as connection:
        connection.execute(damage)
        connection.commit()

    again = State(tmp_path / "worker.db", KEY)

    assert (again.short_id, again.rows()) == (0, [DOOR])
    again.close()


def test_an_assignment_that_continues_outlives_the_process(tmp_path: Path) -> None:
    row = row_of(assignment(3), 5)
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(row), Persist(GATE)])
    state.close()

    again = State(tmp_path / "worker.db", KEY)

    assert again.rows() == [row, GATE]
    again.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE assignments SET value = 'x'",
        "UPDATE assignments SET value = CAST('{}' AS BLOB), digest = '__OF_EMPTY__'",
        "DROP TABLE assignments",
    ],
)
def test_a_damaged_assignment_is_ignored_and_the_rest_is_not(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = row_of(assignment(3), 5)
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(row)])
    state.close()
    of_empty = hashlib.blake2b(b"{}", digest_size=16).hexdigest()
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db")) as connection, connection:
        connection.execute(damage.replace("__OF_EMPTY__", of_empty))

    again = State(tmp_path / "worker.db", KEY)

    assert again.rows() == [replace(row, assignment=None)]
    assert ("door: damaged or of another version" in caplog.text) == ("UPDATE" in damage)
    again.close()


def test_an_assignment_of_an_earlier_generation_is_ignored(tmp_path: Path) -> None:
    """An earlier version of the worker leaves the assignments as they are when it writes its rows."""
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(replace(DOOR, generation=4))])
    state.close()
    stale = msgspec.json.encode(assignment(3, run_generation=DOOR.run_generation))
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db")) as connection, connection:
        digest = hashlib.blake2b(stale, digest_size=16).hexdigest()
        connection.execute("INSERT INTO assignments VALUES ('door', ?, ?)", (stale, digest))

    again = State(tmp_path / "worker.db", KEY)

    assert again.rows() == [replace(DOOR, generation=4)]
    again.close()


@pytest.mark.parametrize(
    "damage",
    ["UPDATE serving SET value = 'x'", "DROP TABLE serving", "UPDATE pipelines SET incarnation = 6"],
)
def test_models_in_use_outlive_the_process_unless_they_are_damaged_or_of_another_camera(
    tmp_path: Path, damage: str
) -> None:
    """An earlier version of the worker leaves the models as they are when it starts a camera."""
    row = row_of(assignment(3), 5, (ModelRef("parts/0", "0" * 64), ModelRef("reader/1", "1" * 64)))
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(row)])
    state.close()
    whole = State(tmp_path / "worker.db", KEY)
    known = whole.rows()
    if "incarnation" in damage:
        whole.write([Persist(replace(row, incarnation=6))])
        damage = "UPDATE serving SET value = ?, digest = ?"
    whole.close()
    stale = msgspec.json.encode({"run_generation": 1, "incarnation": 5, "models": row.serving})
    values = (stale, hashlib.blake2b(stale, digest_size=16).hexdigest()) if "?" in damage else ()
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db")) as connection, connection:
        connection.execute(damage, values)

    again = State(tmp_path / "worker.db", KEY)

    assert known == [row]
    (after,) = again.rows()
    assert after == replace(row, incarnation=after.incarnation, serving=())
    again.close()


def test_the_last_row_of_a_pipeline_is_the_one_that_counts(tmp_path: Path) -> None:
    state = State(tmp_path / "worker.db", KEY)
    newer = Row(pipeline_id="door", generation=4, run_generation=4, incarnation=6)

    state.write([Persist(DOOR), Persist(GATE), Persist(newer), Forget("gate")])

    assert state.rows() == [newer]
    state.close()


def test_the_epoch_never_falls(tmp_path: Path) -> None:
    state = State(tmp_path / "worker.db", KEY)

    state.remember_epoch(7)
    state.remember_epoch(5)

    assert state.seen_epoch == 7
    state.close()


def test_what_another_broker_assigned_means_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(DOOR)])
    state.remember_epoch(7)
    state.close()

    moved = State(tmp_path / "worker.db", "o" * 40)

    assert (moved.rows(), moved.seen_epoch) == ([], 0)
    moved.close()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    State(tmp_path / "worker.db", KEY).close()

    assert stat.S_IMODE((tmp_path / "worker.db").stat().st_mode) & 0o077 == 0


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "worker.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)

    with pytest.raises(StateError, match=r"worker\.db: file is not a database.* mv .*worker\.db\.damaged"):
        State(tmp_path / "worker.db", KEY)


def test_any_flipped_byte_is_named_or_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    state = State(path, KEY)
    state.write([Persist(DOOR), Persist(GATE)])
    state.tidy()
    assert [each.name for each in tmp_path.iterdir() if each.stat().st_size] == ["worker.db"]
    state.close()
    content, rng, refused = path.read_bytes(), random.Random(7), 0

    for offset in [content.index(b"door"), *(rng.randrange(len(content)) for _ in range(100))]:
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 0x20]) + content[offset + 1 :])
        try:
            state = State(path, KEY)
        except StateError:
            refused += 1
        else:
            assert state.rows() == [DOOR, GATE]
            state.close()

    assert refused


@pytest.mark.parametrize("known", [False, True])
def test_on_a_full_disk_it_is_remembered_by_the_process_and_written_when_there_is_room(known: bool) -> None:
    with small_disk() as disk:
        path = disk / "worker.db"
        if known:
            State(path, KEY).close()
        filler = fill_up(disk)

        state = State(path, KEY)
        with pytest.raises(sqlite3.OperationalError):
            state.write(
                [
                    Persist(Row(pipeline_id=f"p{number}", generation=1, run_generation=1, incarnation=1))
                    for number in range(200)
                ]
            )
        held = state.rows()
        filler.unlink()
        state.write([Persist(DOOR)])
        state.close()

        again = State(path, KEY)
        assert len(held) == 200
        assert again.rows() == sorted([DOOR, *held], key=lambda row: row.pipeline_id)
        assert again.starts == 2 + known
        again.close()


@pytest.mark.parametrize("version", [0, 2])
def test_a_file_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path, version: int) -> None:
    """It opened, and failed at the first write."""
    path = tmp_path / "worker.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"PRAGMA user_version = {version}")
        other.execute("CREATE TABLE worker (broker_key TEXT, seen_epoch INTEGER, starts INTEGER, more TEXT)")
        other.execute("INSERT INTO worker VALUES (?, 7, 3, '')", (KEY,))
        other.execute("CREATE TABLE pipelines (pipeline_id, generation, run_generation, incarnation, more)")
        other.execute("ALTER TABLE pipelines ADD COLUMN ended_run_generation")
    content = path.read_bytes()

    with pytest.raises(
        StateError, match=rf"worker\.db: expected version 1 of its tables, got {version}: use"
    ):
        State(path, KEY)

    assert path.read_bytes() == content


def test_a_file_without_the_row_of_the_worker_is_named(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    State(path, KEY).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as emptied:
        emptied.execute("DELETE FROM worker")

    with pytest.raises(StateError, match=r"worker\.db: damaged: it has no row of the worker"):
        State(path, KEY)
