"""A fleet moves from one kind of store to the other, and back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_broker.errors import StoreUnusable
from streamfleet_broker.storage.store import SQLITE, open_postgresql
from streamfleet_broker.storage.transfer import copy_store
from tests.broker.storage.test_store_contract import ROWS, put
from tests.broker.test_main import command
from tests.fakes.ports_and_folders import short_folder
from tests.fakes.postgresql import Cluster, running_cluster
from tests.fakes.stores import PostgresqlEngine, SqliteEngine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture
def url(cluster: Cluster) -> str:
    """An empty database."""
    return cluster.url(cluster.new_database())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data directory with rows of all kinds."""
    with short_folder() as path:
        store = SqliteEngine(path).lead()
        store.raise_epoch(70)
        store.commit(put(kind, key, record) for (kind, key), record in ROWS.items())
        store.close()
        yield path


def test_a_fleet_moves_to_postgresql_and_back(folder: Path, url: str) -> None:
    done = subprocess.run(
        command(folder, "--store", url, "--copy-from", SQLITE), capture_output=True, text=True, check=False
    )
    there = PostgresqlEngine(url).lead()
    there.close()
    with short_folder() as other:
        copy_store(url, SQLITE, other)
        back = SqliteEngine(other).lead()
        back.close()

    assert done.stdout == f"copied {len(ROWS)} rows; start no broker on the old store\n", done.stderr
    assert there.records == back.records == tuple(ROWS.values())
    assert 70 < there.epoch < back.epoch


def test_a_store_with_a_fleet_is_not_overwritten(folder: Path, url: str) -> None:
    copy_store(SQLITE, url, folder)

    with pytest.raises(StoreUnusable, match="already holds a fleet"):
        copy_store(SQLITE, url, folder)


def test_a_store_that_a_broker_leads_is_not_copied(folder: Path, url: str) -> None:
    leader = PostgresqlEngine(url).lead()

    with pytest.raises(StoreUnusable, match="leads it: stop all brokers first"):
        copy_store(SQLITE, url, folder)

    leader.close()
    running = SqliteEngine(folder).lead()
    with pytest.raises(StoreUnusable, match="another broker is running on this data directory"):
        copy_store(SQLITE, url, folder)
    running.close()
    candidate = open_postgresql(url)
    assert candidate.see().leader == ""
    candidate.close()


def test_a_copy_to_the_same_kind_of_store_is_refused(folder: Path) -> None:
    done = subprocess.run(command(folder, "--copy-from", SQLITE), capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "--copy-from: expected" in done.stderr
