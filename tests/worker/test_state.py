"""What a worker remembers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from streamfleet_worker.reconcile import Forget, Persist, Row
from streamfleet_worker.state import State, StateError

KEY = "k" * 40
DOOR = Row("door", 3, 2, 5)
GATE = Row("gate", 1, 1, 1, ended_start_gen=1)


def test_rows_and_the_epoch_outlive_the_process(tmp_path: Path) -> None:
    state = State(tmp_path / "worker.db", KEY)
    state.write([Persist(DOOR), Persist(GATE)])
    state.remember_epoch(7)
    state.close()

    again = State(tmp_path / "worker.db", KEY)

    assert again.rows() == [DOOR, GATE]
    assert (again.seen_epoch, again.starts) == (7, 2)
    again.close()


def test_the_last_row_of_a_pipeline_is_the_one_that_counts(tmp_path: Path) -> None:
    state = State(tmp_path / "worker.db", KEY)
    newer = Row("door", 4, 4, 6)

    state.write([Persist(DOOR), Persist(GATE), Persist(newer), Forget("gate")])

    assert state.rows() == [newer]
    state.close()


def test_the_epoch_never_falls(tmp_path: Path) -> None:
    state = State(tmp_path / "worker.db", KEY)

    state.remember_epoch(7)
    state.remember_epoch(5)

    assert state.seen_epoch == 7
    state.close()


def test_what_another_broker_wished_means_nothing(tmp_path: Path) -> None:
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

    with pytest.raises(StateError, match=r"worker\.db: file is not a database"):
        State(tmp_path / "worker.db", KEY)
