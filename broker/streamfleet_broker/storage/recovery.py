"""Recovers a data directory from the readable rest of a damaged store, or from a backup.

Nothing is destroyed: existing files are moved into a folder beside the data directory.

Devices refuse assignments that are older than those they have. So each generation rises by more than a fleet
can have made in the lost time, and each pipeline restarts once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from streamfleet_broker.fleet.records import FloorRecord, PipelineRecord, Record, TokenRecord, Write
from streamfleet_broker.keys import KEYS, load_or_make
from streamfleet_broker.storage.rows import Key, decode
from streamfleet_broker.storage.sqlite_store import FILE, MARKER, SqliteStore, lock_folder

LEAP = 1_000_000  # generations
STORE_FILES = (MARKER, FILE, f"{FILE}-wal", f"{FILE}-shm")


@dataclass(frozen=True, slots=True)
class Recovered:
    """The contents of a recovered data directory."""

    devices: int
    pipelines: int
    rows: int
    aside: Path | None  # the folder with the former files

    def __str__(self) -> str:
        kept = f"; the former files are in {self.aside}" if self.aside else ""
        return f"{self.rows} rows, with {self.devices} devices and {self.pipelines} pipelines{kept}"


def accept_loss(folder: Path) -> Recovered:
    """Continue with the readable rest of the store, and create missing keys.

    Raises: StoreUnusable, StoreDown, BadKey, OSError.
    """
    with held(folder):
        epoch, records = _what_is_left(folder / FILE)
        found = begin_again(folder, epoch, records)
        for name in KEYS:
            load_or_make(folder / name)
    return found


def begin_again(
    folder: Path, epoch: int, records: Mapping[Key, Record], *, others: tuple[str, ...] = ()
) -> Recovered:
    """Replace the store by one with these records. The folder must be held.

    `others`: further files to move aside. Join tokens are dropped, as they may have been used meanwhile.

    Raises: StoreUnusable, StoreDown, OSError.
    """
    kept = {key: _raised(each) for key, each in records.items() if not isinstance(each, TokenRecord)}
    draft = Path(tempfile.mkdtemp(prefix=".recovery-", dir=folder))
    try:
        store = SqliteStore(draft)
        try:
            store.raise_epoch(epoch + 1)
            store.commit(Write(*key, None, record) for key, record in kept.items())
        finally:
            store.close()
        aside = set_aside(folder, (*STORE_FILES, *others))
        for name in (MARKER, FILE):  # the first alone is no store that starts
            (draft / name).rename(folder / name)
    finally:
        shutil.rmtree(draft)
    kinds = [kind for kind, _ in kept]
    return Recovered(kinds.count("device"), kinds.count("pipeline"), len(kinds), aside)


def set_aside(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Move these files into a new folder, and return it; None if there are none."""
    found = [name for name in names if (folder / name).exists()]
    if not found:
        return None
    aside = Path(tempfile.mkdtemp(prefix=time.strftime("replaced-%Y%m%d-%H%M%S-"), dir=folder))
    for name in found:
        target = aside / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        (folder / name).rename(target)
    return aside


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock the data directory against brokers. Raises: StoreUnusable, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        yield
    finally:
        os.close(lock)


def _what_is_left(path: Path) -> tuple[int, dict[Key, Record]]:
    """The epoch and the readable rows of a database that may be damaged."""
    epoch, records = 0, dict[Key, Record]()
    if path.exists():
        connection = sqlite3.connect(path)
        connection.text_factory = bytes  # damaged text may not be valid UTF-8
        with contextlib.closing(connection), contextlib.suppress(sqlite3.DatabaseError, ValueError):
            for kind, key, value in connection.execute("SELECT kind, key, value FROM rows"):
                with contextlib.suppress(ValueError, msgspec.ValidationError, TypeError):
                    records[kind.decode(), key.decode()] = decode(kind.decode(), key.decode(), value)
            ((found,),) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'")
            epoch = int(found)
    return epoch, records


def _raised(record: Record) -> Record:
    """The record with generations that no device has seen."""
    if isinstance(record, PipelineRecord):
        return replace(record, generation=record.generation + LEAP, run_generation=record.generation + LEAP)
    return replace(record, generation=record.generation + LEAP) if isinstance(record, FloorRecord) else record
