"""Backups: one tar file with a snapshot of the store, and the keys.

    broker/store.db, broker/keys/broker.key, broker/keys/operator.key, and what others add under other names

A backup can be made while a broker runs. It holds secret keys and camera passwords: it is private.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from streamfleet_broker.errors import BadBackup
from streamfleet_broker.keys import KEYS, load
from streamfleet_broker.storage.recovery import STORE_FILES, Recovered, begin_again, held
from streamfleet_broker.storage.sqlite_store import FILE, MARKER, Contents, compare, connect, read
from streamfleet_broker.storage.version_marker import VersionMarker
from streamfleet_core.runtime.draft_file import lock_draft

_MEMBERS = {  # name in the archive → name in the data directory, and maximum size (bytes)
    f"broker/{FILE}": (FILE, 4 * 1024**3),
    **{f"broker/{name}": (name, 4096) for name in KEYS},
}
_UNREADABLE = (OSError, sqlite3.Error, tarfile.TarError, ValueError, msgspec.ValidationError)


def back_up(folder: Path, file: Path) -> Contents:
    """Write a backup of a data directory to a new file, and return its contents.

    Raises: BadBackup, BadKey.
    """
    try:
        with _new_file(file) as archive, _own_folder(file.with_name(f".{file.name}.store")) as beside:
            contents = _copy(folder, beside / FILE)
            archive.add(beside / FILE, f"broker/{FILE}")
            for name in KEYS:
                load(folder / name)
                archive.add(folder / name, f"broker/{name}")
    except _UNREADABLE as exc:
        raise BadBackup(folder, f"cannot be written to {file}: {exc}") from exc
    return contents


def restore(file: Path, folder: Path, *, replace: bool = False) -> Recovered:
    """Restore a backup into a data directory. With `replace`, existing files are moved aside.

    Raises: BadBackup, BadKey, StoreUnusable, StoreDown, OSError.
    """
    with held(folder):
        if not replace and any((folder / name).exists() for name in (*STORE_FILES, *KEYS)):
            raise BadBackup(folder, "already holds a fleet; --replace moves it into a folder beside it")
        with _own_folder(folder / ".restore") as beside:
            try:
                _extract(file, beside)
                with contextlib.closing(sqlite3.connect(beside / FILE)) as connection:
                    contents = read(connection)
            except _UNREADABLE as exc:
                raise BadBackup(file, f"expected a backup of a broker: {exc}") from exc
            for name in KEYS:
                load(beside / name)
            found = begin_again(folder, contents.epoch, contents.records, others=KEYS)
            for name in KEYS:
                (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
                (beside / name).rename(folder / name)
    return found


def _copy(folder: Path, copy: Path) -> Contents:
    """Copy a consistent snapshot of the store. Raises: OSError, sqlite3.Error, ValueError."""
    marked = VersionMarker(folder / MARKER).read()  # first, as it can only rise
    path = folder / FILE
    path.stat()
    with contextlib.closing(connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file
        contents = read(target)
    compare(contents.mark, marked, folder / MARKER)
    return contents


def _extract(file: Path, folder: Path) -> None:
    """Extract the broker's members and ignore all others. Raises: OSError, TarError, ValueError."""
    missing = dict(_MEMBERS)
    with tarfile.open(file, "r:") as archive:
        for member in archive:
            if member.name not in missing:
                continue
            name, limit = missing.pop(member.name)
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or member.size > limit:
                raise ValueError(f"{member.name}: expected a file of at most {limit} bytes")
            (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as target:
                shutil.copyfileobj(content, target)
                os.fsync(descriptor)
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")


@contextlib.contextmanager
def _new_file(file: Path) -> Iterator[tarfile.TarFile]:
    """A private archive that appears only when it is complete. Raises: OSError, FileExistsError.

    The draft that a killed backup left is replaced.
    """
    draft = file.with_name(f".{file.name}.draft")
    with os.fdopen(lock_draft(draft), "wb") as target:
        try:
            if file.exists():
                raise FileExistsError(f"{file} exists already")
            with tarfile.open(fileobj=target, mode="w") as archive:
                yield archive
            target.flush()
            os.fsync(target.fileno())
            draft.rename(file)
        except BaseException:
            draft.unlink()
            raise


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """A private folder of who holds the lock; one that is there was left by one that was killed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
