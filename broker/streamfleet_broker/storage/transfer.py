"""Copies a fleet from one store into another, empty one, while no broker leads it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from streamfleet_broker.errors import StoreUnusable
from streamfleet_broker.fleet.record_index import address_of
from streamfleet_broker.fleet.records import Write
from streamfleet_broker.storage.sqlite_store import SqliteStore
from streamfleet_broker.storage.store import Store, is_postgresql, open_postgresql

NAME = "copy"  # under which the copying program leads


def copy_store(source: str, target: str, folder: Path) -> int:
    """Copy all rows, and return how many there are. `folder`: the data directory, for a store in it.

    The epoch of the copy is higher, so that devices follow its broker at once. The source stays as it is.

    Raises: StoreUnusable, StoreDown, Fenced.
    """
    with contextlib.closing(_led(source, folder)) as old, contextlib.closing(_led(target, folder)) as new:
        if new.records:
            raise StoreUnusable(target.partition("@")[2] or target, "already holds a fleet", option="--store")
        new.raise_epoch(max(old.epoch, new.epoch) + 1)
        new.commit(Write(*address_of(record), None, record) for record in old.records)
        return len(old.records)


def _led(url: str, folder: Path) -> Store:
    """A store that this program leads. Raises: StoreUnusable, StoreDown."""
    if not is_postgresql(url):
        return SqliteStore(folder)
    candidate = open_postgresql(url)
    with contextlib.closing(candidate):
        seen = candidate.see()
        store = None if seen.leader else candidate.lead(seen, NAME)
    if store is None:
        text = f"{seen.leader or 'another broker'} leads it: stop all brokers first"
        raise StoreUnusable(candidate.place, text, option="--store")
    return store
