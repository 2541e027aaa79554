"""Samples that devices uploaded: the spool of the api, and its index.

The disk is the truth: every question looks at it, and remembers only what can never change, which is what the
JSON of a sample says.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamfleet_api.storage.jpeg import check_picture
from streamfleet_core.datasets.picked_sample import Sample
from streamfleet_core.datasets.spool import Entry, NoSampleName, Spool
from streamfleet_core.protocol.json_text import InvalidJson, decode_json
from streamfleet_core.runtime.small_file import FileTooLarge

logger = logging.getLogger(__name__)

SWEEP = 60.0  # seconds between two looks for what is too old
AHEAD = 86_400.0  # seconds that the clock of a device may be ahead of ours
_KNOWN = 100_000  # samples that pages remember, until the next look at the whole folder
_DECODING = 2  # pictures at once, each of another device: one may take a second


class NoSuchDataset(Exception):
    """A dataset without a sample."""

    def __init__(self, dataset: str) -> None:
        super().__init__(f"no dataset {dataset[:64]!r}: GET /v2/samples lists them")


class OtherSample(Exception):
    """A name under which the sample of another device lies."""

    def __init__(self, sample: Sample, device: str) -> None:
        super().__init__(f"expected a name of {sample.device}'s own, {sample.name} is of {device} already")


class TooNew(Exception):
    """A sample of a time that is to come: of a wrong clock, and it would outlast all others here."""

    def __init__(self, sample: Sample, now: float) -> None:
        days = (sample.captured_at - now) / 86_400
        super().__init__(
            f"expected a sample of no later than {AHEAD / 86_400:.4g} days ahead of the clock here,"
            f" it was captured {days:.4g} days ahead"
        )


class TooOld(Exception):
    """A sample that would be removed as soon as it is here: its device has it longer, or a wrong clock."""

    def __init__(self, sample: Sample, now: float, age: float) -> None:
        days, most = (now - sample.captured_at) / 86_400, age / 86_400
        super().__init__(
            f"expected a sample of the last {most:.4g} days, it was captured {days:.4g} days ago"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A stored sample, without its prediction."""

    dataset: str
    name: str
    size: int  # bytes of its files
    pipeline_id: str
    device: str
    source_id: int
    frame_id: int
    captured_at: float  # Unix seconds
    strategy: str
    batch: str

    @classmethod
    def of(cls, entry: Entry, sample: _Described) -> Kept:
        """The index entry of a sample."""
        return cls(
            dataset=entry.dataset,
            name=entry.name,
            size=entry.size,
            pipeline_id=sample.pipeline_id,
            device=sample.device,
            source_id=sample.source_id,
            frame_id=sample.frame_id,
            captured_at=sample.captured_at,
            strategy=sample.strategy,
            batch=sample.batch,
        )


@dataclass(frozen=True, slots=True)
class Which:
    """Some of the samples; None is any."""

    pipeline_id: str | None = None
    device: str | None = None
    dataset: str | None = None

    def has(self, kept: Kept) -> bool:
        """Whether a sample matches."""
        return (
            self.dataset in (None, kept.dataset)
            and self.pipeline_id in (None, kept.pipeline_id)
            and self.device in (None, kept.device)
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some samples of a dataset, by name."""

    samples: list[Kept]
    next: str | None  # the name of the last one, if others follow


class _Described(msgspec.Struct, frozen=True):
    """The fields of a sample's JSON that the index needs. Its prediction, which may be long, is skipped."""

    pipeline_id: str
    device: str
    source_id: int
    frame_id: int
    captured_at: float
    strategy: str
    batch: str


class Samples:
    """The samples of one api. Its methods are called from the event loop; the disk is awaited in threads."""

    def __init__(self, folder: Path, *, size: int, age: float) -> None:
        self.spool = Spool(folder, size=size, age=age)
        self._age = age
        self._known: dict[Entry, Kept] = {}
        self._looking = asyncio.Lock()  # one look at a time: each goes through the whole folder
        self._paging = asyncio.Lock()  # pages do not wait for these
        self._putting = asyncio.Lock()  # prevents concurrent uploads of the same sample
        self._checking: dict[str, asyncio.Lock] = {}  # of devices: one picture of each is decoded at a time
        self._pictures = ThreadPoolExecutor(_DECODING, "pictures")
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Remove what is too old, from now on."""
        self._sweeping = asyncio.create_task(self._sweep_for_ever(), name="samples")

    async def close(self) -> None:
        """End the sweeping."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        self._pictures.shutdown(wait=False, cancel_futures=True)

    async def put(self, sample: Sample, image: bytes) -> bool:
        """Keep a sample: it is on the disk then, also after a cut of power. False: it was here already.

        Raises: OtherSample, TooOld, TooNew, BadJpeg, SpoolTooSmall, OSError.
        """
        now = time.time()
        if now - sample.captured_at > self._age:
            raise TooOld(sample, now, self._age)
        if sample.captured_at - now > AHEAD:
            raise TooNew(sample, now)
        async with self._checking.setdefault(sample.device, asyncio.Lock()):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pictures, check_picture, image, sample.width, sample.height)
        async with self._putting:
            return await asyncio.to_thread(self._put, sample, image)

    async def find(self, which: Which) -> list[Kept]:
        """The stored samples by dataset and name, in the order of capture. Raises: OSError."""
        async with self._looking:
            return await asyncio.to_thread(self._find, which)

    async def page(self, which: Which, after: str | None, limit: int) -> Page:
        """The stored samples of a dataset after a name. Raises: NoSuchDataset, OSError."""
        async with self._paging:
            return await asyncio.to_thread(self._page, which, after, limit)

    async def remove(self, dataset: str) -> int:
        """Remove a dataset and return the number of its samples. Raises: OSError."""
        return await asyncio.to_thread(self._remove, dataset)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.spool.trim, time.time())
            except OSError as exc:
                logger.warning("%s: what is too old stays: %s", self.spool.folder, exc)
            await asyncio.sleep(SWEEP)

    # in threads -------------------------------------------------------------------------------------------

    def _put(self, sample: Sample, image: bytes) -> bool:
        here = self.spool.read(sample.dataset, sample.name)
        if here is None:
            self.spool.remove(sample.dataset, sample.name)  # of a cut of power there may be half of it
            is_new = self.spool.put(sample, image)
        elif here[0].device != sample.device:
            raise OtherSample(sample, here[0].device)
        else:
            is_new = False
        _sync(self.spool, sample)
        return is_new

    def _find(self, which: Which) -> list[Kept]:
        return sorted(filter(which.has, self._scan()), key=lambda one: (one.dataset, one.name))

    def _page(self, which: Which, after: str | None, limit: int) -> Page:
        assert which.dataset is not None
        try:
            names = self.spool.names(which.dataset)
        except NoSampleName as exc:
            raise NoSuchDataset(which.dataset) from exc
        rest = names if after is None else names[bisect.bisect_right(names, after) :]
        found: list[Kept] = []
        for name in rest:
            kept = self._look_at(which.dataset, name)
            if kept is not None and which.has(kept):
                found.append(kept)
            if len(found) > limit:
                return Page(found[:limit], found[limit - 1].name)
        if not found and all(self._look_at(which.dataset, name) is None for name in names):
            raise NoSuchDataset(which.dataset)
        return Page(found, None)

    def _look_at(self, dataset: str, name: str) -> Kept | None:
        entry = self.spool.entry(dataset, name)
        if entry is None:
            return None
        kept = self._known.get(entry) or self._read(entry)
        if kept is not None and len(self._known) < _KNOWN:
            self._known[entry] = kept
        return kept

    def _scan(self) -> list[Kept]:
        found: dict[Entry, Kept] = {}
        for entry in self.spool.entries():
            kept = self._known.get(entry) or self._read(entry)
            if kept is not None:
                found[entry] = kept
        self._known = found
        return list(found.values())

    def _read(self, entry: Entry) -> Kept | None:
        try:
            described = self.spool.read_json(entry.dataset, entry.name)
            return Kept.of(entry, decode_json(described, _Described))
        except (FileNotFoundError, FileTooLarge, InvalidJson):  # removed meanwhile, or written by no sample
            return None

    def _remove(self, dataset: str) -> int:
        entries = [entry for entry in self.spool.entries() if entry.dataset == dataset]
        for entry in entries:
            self.spool.remove(entry.dataset, entry.name)
        return len(entries)


def _sync(spool: Spool, sample: Sample) -> None:
    """Sync a stored sample to the disk: its device deletes its copy after our reply."""
    path = spool.json_path(sample.dataset, sample.name)
    with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
        for each in (path.with_suffix(".jpg"), path, path.parent, spool.folder):
            _sync_one(each)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
