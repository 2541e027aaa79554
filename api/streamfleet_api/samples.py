"""Samples that devices sent: the spool of the api, and what is told of it.

The disk is the truth: every question looks at it, and remembers only what can never change, which is what the
JSON of a sample says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamfleet_broker.protocol.samples import Sample
from streamfleet_broker.protocol.spool import Entry, Spool

logger = logging.getLogger(__name__)

SWEEP = 60.0  # seconds between two looks for what is too old


class OtherSample(Exception):
    """A name under which the sample of another device lies."""

    def __init__(self, sample: Sample, device: str) -> None:
        super().__init__(f"expected a name of {sample.device}'s own, {sample.name} is of {device} already")


class TooOld(Exception):
    """A sample that would be removed as soon as it is here: its device has it longer, or a wrong clock."""

    def __init__(self, sample: Sample, now: float, age: float) -> None:
        days, most = (now - sample.captured_at) / 86_400, age / 86_400
        super().__init__(
            f"expected a sample of the last {most:.4g} days, it was captured {days:.4g} days ago"
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """One sample that is here, without its prediction."""

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
    def of(cls, entry: Entry, sample: Sample) -> Kept:
        """What is told of a sample."""
        return cls(
            entry.dataset,
            entry.name,
            entry.size,
            sample.pipeline_id,
            sample.device,
            sample.source_id,
            sample.frame_id,
            sample.captured_at,
            sample.strategy,
            sample.batch,
        )


@dataclass(frozen=True, slots=True)
class Which:
    """Some of the samples; None is any."""

    pipeline_id: str | None = None
    device: str | None = None
    dataset: str | None = None

    def has(self, kept: Kept) -> bool:
        """Is it one of them?"""
        return (
            self.dataset in (None, kept.dataset)
            and self.pipeline_id in (None, kept.pipeline_id)
            and self.device in (None, kept.device)
        )


class Samples:
    """The samples of one api. Its methods are called from the event loop; the disk is awaited in threads."""

    def __init__(self, folder: Path, *, size: int, age: float) -> None:
        self.spool = Spool(folder, size=size, age=age)
        self._age = age
        self._known: dict[Entry, Kept] = {}
        self._looking = asyncio.Lock()  # one look at a time: each goes through the whole folder
        self._putting = asyncio.Lock()  # so that nobody puts again what is being put
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Remove what is too old, from now on."""
        self._sweeping = asyncio.create_task(self._sweep_for_ever(), name="samples")

    async def close(self) -> None:
        """End the sweeping."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def put(self, sample: Sample, image: bytes) -> bool:
        """Keep a sample: it is on the disk then, also after a cut of power. False: it was here already.

        Raises: OtherSample, TooOld, SpoolTooSmall, OSError.
        """
        if time.time() - sample.captured_at > self._age:
            raise TooOld(sample, time.time(), self._age)
        async with self._putting:
            return await asyncio.to_thread(self._put, sample, image)

    async def find(self, which: Which) -> list[Kept]:
        """Those that are here, by dataset and name, as they were captured. Raises: OSError."""
        async with self._looking:
            kept = await asyncio.to_thread(self._look)
        return sorted(filter(which.has, kept), key=lambda one: (one.dataset, one.name))

    async def remove(self, dataset: str) -> int:
        """Remove a dataset. How many samples it had. Raises: OSError."""
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

    def _look(self) -> list[Kept]:
        found: dict[Entry, Kept] = {}
        for entry in self.spool.entries():
            kept = self._known.get(entry) or self._read(entry)
            if kept is not None:
                found[entry] = kept
        self._known = found
        return list(found.values())

    def _read(self, entry: Entry) -> Kept | None:
        try:
            described = self.spool.json_path(entry.dataset, entry.name).read_bytes()
            return Kept.of(entry, msgspec.json.decode(described, type=Sample))
        except (FileNotFoundError, msgspec.DecodeError):  # removed meanwhile, or cut short by a cut of power
            return None

    def _remove(self, dataset: str) -> int:
        entries = [entry for entry in self.spool.entries() if entry.dataset == dataset]
        for entry in entries:
            self.spool.remove(entry.dataset, entry.name)
        return len(entries)


def _sync(spool: Spool, sample: Sample) -> None:
    """Who put it removes its own when we have said that it is here."""
    path = spool.json_path(sample.dataset, sample.name)
    with contextlib.suppress(FileNotFoundError):  # somebody has removed it meanwhile
        for each in (path.with_suffix(".jpg"), path, path.parent, spool.folder):
            _sync_one(each)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
