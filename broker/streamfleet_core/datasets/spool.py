"""A folder of samples, on a device and in the API: images that wait to be uploaded or exported.

    <folder>/<dataset>/<name>.jpg     written first
    <folder>/<dataset>/<name>.json    written last, by rename: a sample exists if its JSON exists
    <folder>/.use                     bytes that all files take; also the lock for changes

Any number of processes may use one folder. If a new sample exceeds the limit, the oldest samples are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from streamfleet_core.datasets.picked_sample import MAX_PICKED, Sample
from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.protocol.json_text import InvalidJson, decode_json
from streamfleet_core.protocol.sampling import Dataset, SampleName
from streamfleet_core.runtime.small_file import FileTooLarge, read_small

SIZE = 1024**3  # bytes of all files
AGE = 30 * 86_400.0  # seconds since the capture
MAX_JSON = MAX_PICKED  # bytes of a sample's JSON: more than that could not be uploaded

_LOCK_TIMEOUT = 5.0  # seconds to wait for another process
_ROOM = 0.1  # of the size, freed at once when the folder is full: listing it is expensive
_USE = struct.Struct("<Q")


def _pattern(annotated: object) -> re.Pattern[str]:
    meta = get_args(annotated)[1]
    return re.compile(meta.pattern)


_DATASET, _NAME = _pattern(Dataset), _pattern(SampleName)


class NoSampleName(ProtocolError, LookupError):
    """A text that is not the name of a dataset or of a sample, and is never joined to a path."""

    def __init__(self, text: str) -> None:
        super().__init__(f"expected the name of a dataset or of a sample, got {text[:80]!r}")


class SpoolTooSmall(OSError):
    """A sample that is larger than the limit of the whole folder."""

    def __init__(self, folder: Path, size: int, limit: int) -> None:
        super().__init__(f"{folder}: expected a sample of at most {limit} bytes, got {size}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored sample."""

    dataset: str
    name: str
    size: int  # bytes of both files

    @property
    def captured_at(self) -> float:
        """Unix seconds."""
        return int(self.name.split("-", 1)[0]) / 1000


@dataclass(frozen=True, slots=True)
class _Contents:
    entries: list[Entry]  # oldest first
    strays: list[Path]  # files that belong to no sample
    folders: list[Path]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)


class Spool:
    """One folder of samples. Any thread may call any method; those that change it block on the disk.

    Raises: OSError from every method, if the disk fails.
    """

    def __init__(self, folder: Path, *, size: int = SIZE, age: float = AGE) -> None:
        self.folder = folder
        self._size = size
        self._age = age
        self._lock = threading.Lock()  # the lock on the file separates processes, not threads

    def put(self, sample: Sample, image: bytes) -> bool:
        """Store a sample with its JPEG. Returns False if it exists already.

        Raises: SpoolTooSmall.
        """
        described = msgspec.json.encode(sample)
        needed = len(image) + len(described)
        if needed > self._size:
            raise SpoolTooSmall(self.folder, needed, self._size)
        path = self.json_path(sample.dataset, sample.name)
        with self._locked() as use:
            if path.exists():
                return False
            taken = use.read()
            if taken is None or taken + needed > self._size:
                taken = self._make_room(needed)
            # Before the files: a process killed here has counted too much, never too little.
            use.write(taken + needed)
            try:
                _write(path, image, described)
            except OSError:
                _remove(path)
                use.write(taken)
                raise
        return True

    def entries(self) -> list[Entry]:
        """List the samples, oldest first. Files with other names are ignored.

        If `read` finds one of them incomplete, its write was interrupted: remove it.
        """
        return self._scan_folder().entries

    def names(self, dataset: str) -> list[str]:
        """List the names in a dataset, sorted. Samples may be incomplete. Raises: NoSampleName."""
        if not _DATASET.match(dataset):
            raise NoSampleName(dataset)
        parts = (found.name.rpartition(".") for found in _scan(self.folder / dataset))
        return sorted(stem for stem, _, ending in parts if ending == "json" and _NAME.match(stem))

    def entry(self, dataset: str, name: str) -> Entry | None:
        """Look up one sample; None if it is missing or incomplete. Raises: NoSampleName."""
        path = self.json_path(dataset, name)
        size = 0
        for part in (path, path.with_suffix(".jpg")):
            try:
                found = part.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(found.st_mode):
                return None
            size += found.st_size
        return Entry(dataset, name, size) if found.st_size else None

    def read(self, dataset: str, name: str) -> tuple[Sample, bytes] | None:
        """Read a sample with its JPEG; None if it is missing or incomplete. Raises: NoSampleName."""
        try:
            sample = decode_json(self.read_json(dataset, name), Sample)
            image = read_small(self.image_path(dataset, name), most=sample.size)
        except (FileNotFoundError, NotADirectoryError, FileTooLarge, InvalidJson):
            return None
        return (sample, image) if len(image) == sample.size else None

    def read_json(self, dataset: str, name: str) -> bytes:
        """Read the JSON of a sample. Raises: NoSampleName, FileNotFoundError, FileTooLarge."""
        return read_small(self.json_path(dataset, name), most=MAX_JSON)

    def remove(self, dataset: str, name: str) -> None:
        """Remove a sample, if it exists. Raises: NoSampleName."""
        path = self.json_path(dataset, name)
        with self._locked() as use:
            freed = _remove(path)
            taken = use.read()
            if taken is not None:
                use.write(max(0, taken - freed))

    def trim(self, now: float) -> int:
        """Remove samples that are too old (`now`: Unix seconds), and remains of killed processes.

        Returns the number of removed samples.
        """
        if not self.folder.exists():
            return 0
        with self._locked() as use:
            contents = self._scan_folder()
            for stray in contents.strays:  # no process is writing them: we hold the lock
                stray.unlink(missing_ok=True)
            old = [entry for entry in contents.entries if now - entry.captured_at > self._age]
            removed = {*old, *_oldest(contents, contents.size - self._size)}
            for entry in removed:
                _remove(self.json_path(entry.dataset, entry.name))
            use.write(contents.size - sum(entry.size for entry in removed))
            for folder in contents.folders:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
        return len(removed)

    def image_path(self, dataset: str, name: str) -> Path:
        """The path of a sample's JPEG. Raises: NoSampleName."""
        return self.json_path(dataset, name).with_suffix(".jpg")

    def json_path(self, dataset: str, name: str) -> Path:
        """The path of a sample's JSON. Raises: NoSampleName."""
        if not _DATASET.match(dataset):
            raise NoSampleName(dataset)
        if not _NAME.match(name):
            raise NoSampleName(name)
        return self.folder / dataset / f"{name}.json"

    def _make_room(self, needed: int) -> int:
        """Free enough space for `needed` bytes, and return the bytes in use."""
        contents = self._scan_folder()
        excess = contents.size + needed - self._size
        if excess <= 0:
            return contents.size
        removed = _oldest(contents, min(contents.size, excess + int(self._size * _ROOM)))
        for entry in removed:
            _remove(self.json_path(entry.dataset, entry.name))
        return contents.size - sum(entry.size for entry in removed)

    def _scan_folder(self) -> _Contents:
        entries: list[Entry] = []
        strays: list[Path] = []
        folders = [Path(found.path) for found in _scan(self.folder) if found.is_dir(follow_symlinks=False)]
        folders = [folder for folder in folders if _DATASET.match(folder.name)]
        for folder in folders:
            sizes = _sizes(folder)
            for file_name, size in sizes.items():
                stem, _, ending = file_name.rpartition(".")
                if not _NAME.match(stem):
                    continue
                whole = f"{stem}.json" in sizes and sizes.get(f"{stem}.jpg", 0) > 0
                if whole and ending == "json":
                    entries.append(Entry(folder.name, stem, size + sizes[f"{stem}.jpg"]))
                elif not whole or ending == "new":
                    strays.append(folder / file_name)
        entries.sort(key=lambda entry: (entry.captured_at, entry.name, entry.dataset))
        return _Contents(entries, strays, folders)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_Use]:
        """Hold the folder exclusively, among threads and processes. Raises: TimeoutError."""
        until = time.monotonic() + _LOCK_TIMEOUT
        if not self._lock.acquire(timeout=_LOCK_TIMEOUT):
            raise TimeoutError(f"{self.folder} has been in use for {_LOCK_TIMEOUT} s")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / ".use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _lock(descriptor, self.folder, until)
                yield _Use(descriptor)
            finally:
                os.close(descriptor)
        finally:
            self._lock.release()


class _Use:
    """The number of bytes in use, in the locked file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> int | None:
        """Read the number; None if it is unknown."""
        content = os.pread(self._descriptor, _USE.size, 0)
        taken: int | None = _USE.unpack(content)[0] if len(content) == _USE.size else None
        return taken

    def write(self, taken: int) -> None:
        os.pwrite(self._descriptor, _USE.pack(taken), 0)


def _lock(descriptor: int, folder: Path, until: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError(f"{folder} has been in use for {_LOCK_TIMEOUT} s") from None
        time.sleep(0.002)


def _oldest(contents: _Contents, excess: int) -> list[Entry]:
    """The oldest entries, which together free `excess` bytes."""
    chosen: list[Entry] = []
    for entry in contents.entries:
        if excess <= 0:
            break
        chosen.append(entry)
        excess -= entry.size
    return chosen


def _write(path: Path, image: bytes, described: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_suffix(".new")
    _write_file(path.with_suffix(".jpg"), image)
    _write_file(draft, described)
    draft.rename(path)


def _write_file(path: Path, content: bytes) -> None:
    # Not synced: it would slow the cameras down. A power cut costs the last samples; their size shows it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _remove(path: Path) -> int:
    """Remove the files of a sample, its JSON first, and return the freed bytes."""
    freed = 0
    for part in (path, path.with_suffix(".new"), path.with_suffix(".jpg")):
        with contextlib.suppress(FileNotFoundError):
            size = part.lstat().st_size
            part.unlink()
            freed += size
    return freed


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of each of our files; files that are removed meanwhile are left out."""
    sizes: dict[str, int] = {}
    for found in _scan(folder):
        with contextlib.suppress(FileNotFoundError):
            if found.name.endswith((".jpg", ".json", ".new")) and found.is_file(follow_symlinks=False):
                sizes[found.name] = found.stat(follow_symlinks=False).st_size
    return sizes
