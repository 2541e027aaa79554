"""What a store of predictions does, and the store in memory.

One thread uses a store. Times are in CLOCK_BOOTTIME seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from streamfleet_core.peers.replay import Cause, Key
from streamfleet_core.protocol.values import Keep
from streamfleet_worker.publisher.replay.history import History

MAX_PIPELINES = 2048  # that are remembered; the ones that were silent for longest are forgotten
_OVERHEAD = 450  # bytes that Python needs for a record, besides its body


class Entry(NamedTuple):
    """A prediction to keep, as it was published."""

    pipeline_id: str
    key: Key
    header: bytes
    body: bytes
    at: float  # when it was published


@dataclass(frozen=True, slots=True)
class Limits:
    """Up to when and how much is kept: of all pipelines, or of one."""

    size: int  # bytes
    age: float  # seconds


class Store(Protocol):
    """Keeps predictions within limits."""

    @property
    def trouble(self) -> str:
        """Why predictions are not kept at the moment; "" if they are."""

    def history(self, pipeline_id: str) -> History | None:
        """What is kept and lost of a pipeline; None: nothing is known of it."""

    def keep(self, limits: Mapping[str, Keep | None]) -> None:
        """Change the limits of these pipelines. None: those of the store. The others stay as they are."""

    def append(self, entries: list[Entry], now: float) -> None:
        """Keep these, and remove what is beyond the limits."""

    def skip(self, keys: Mapping[str, Key]) -> None:
        """Record predictions that were made and are not kept, by pipeline."""

    def read(self, pipeline_id: str, start: Key, count: int, size: int) -> list[Entry]:
        """The kept predictions from a key on: at most `count`, and no more once they have `size` bytes."""

    def close(self) -> None:
        """Write what is not written yet."""


class Histories:
    """The histories of all pipelines, within a limit."""

    def __init__(self) -> None:
        self._histories: dict[str, History] = {}

    def find(self, pipeline_id: str) -> History | None:
        """The history of a pipeline, if there is one."""
        return self._histories.get(pipeline_id)

    def of(self, pipeline_id: str) -> History:
        """The history of a pipeline."""
        found = self._histories.get(pipeline_id)
        if found is None:
            self._make_room()
            found = self._histories[pipeline_id] = History()
        return found

    def skip(self, keys: Mapping[str, Key]) -> None:
        """Record predictions that were made and are not kept, by pipeline."""
        for pipeline_id, key in keys.items():
            self.of(pipeline_id).skip(key)

    def cut(self) -> None:
        """Record that the publisher died."""
        for history in self._histories.values():
            history.cut()

    def cuts(self) -> dict[str, tuple[Key, ...]]:
        """Where runs were cut off, by pipeline."""
        return {name: tuple(each.cuts) for name, each in self._histories.items() if each.cuts}

    def _make_room(self) -> None:
        """Forget the oldest pipeline of which nothing is kept."""
        if len(self._histories) >= MAX_PIPELINES:
            empty = (name for name, history in self._histories.items() if not history.kept)
            del self._histories[next(empty, next(iter(self._histories)))]


class _Kept:
    """The records of one pipeline, sorted by key. Removed ones leave a gap at the start for a while."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.entries: list[Entry | None] = []
        self.first = 0
        self.size = 0  # bytes

    @property
    def oldest(self) -> float:
        """When the first one was published; infinite without any."""
        entry = self.entries[self.first] if self.first < len(self.entries) else None
        return math.inf if entry is None else entry.at

    def add(self, entry: Entry) -> None:
        self.keys.append(entry.key)
        self.entries.append(entry)
        self.size += _size(entry)

    def pop(self) -> Entry:
        entry = self.entries[self.first]
        assert entry is not None
        self.entries[self.first] = None
        self.first += 1
        self.size -= _size(entry)
        if self.first > 1024 and self.first * 2 > len(self.keys):
            del self.keys[: self.first], self.entries[: self.first]
            self.first = 0
        return entry

    def since(self, start: Key) -> int:
        return bisect_left(self.keys, start, self.first)


class MemoryStore:
    """Keeps the newest predictions in memory. They end with the process.

    Args:
        size: limit in bytes, for all pipelines together.
        age: limit in seconds.
    """

    def __init__(self, size: int, age: float) -> None:
        self._limits = Limits(size, age)
        self._of_pipelines: dict[str, Limits] = {}
        self._size = 0
        self._kept: dict[str, _Kept] = {}
        self._histories = Histories()
        self.trouble = ""

    def history(self, pipeline_id: str) -> History | None:
        """What is kept and lost of a pipeline; None: nothing is known of it."""
        return self._histories.find(pipeline_id)

    def keep(self, limits: Mapping[str, Keep | None]) -> None:
        """Change the limits of these pipelines. None: those of the store. The others stay as they are."""
        self._of_pipelines = changed(self._of_pipelines, limits, self._limits, self._kept)

    def append(self, entries: list[Entry], now: float) -> None:
        """Keep these, and remove what is beyond the limits."""
        for entry in entries:
            if self._histories.of(entry.pipeline_id).append(entry.key):
                self._kept.setdefault(entry.pipeline_id, _Kept()).add(entry)
                self._size += _size(entry)
        for pipeline_id, kept in list(self._kept.items()):
            limits = self._of_pipelines.get(pipeline_id, self._limits)
            while kept.oldest <= now - limits.age:
                self._evict(pipeline_id, "age")
            while kept.size > limits.size:
                self._evict(pipeline_id, "size")
        while self._size > self._limits.size:
            self._evict(min(self._kept, key=lambda name: self._kept[name].oldest), "size")
        self._kept = {name: kept for name, kept in self._kept.items() if kept.size}

    def read(self, pipeline_id: str, start: Key, count: int, size: int) -> list[Entry]:
        """The kept predictions from a key on: at most `count`, and no more once they have `size` bytes."""
        found: list[Entry] = []
        kept = self._kept.get(pipeline_id)
        if kept is None:
            return found
        at = kept.since(start)
        while at < len(kept.keys) and len(found) < count and size > 0:
            entry = kept.entries[at]
            assert entry is not None
            found.append(entry)
            size -= len(entry.body)
            at += 1
        return found

    def skip(self, keys: Mapping[str, Key]) -> None:
        """Record predictions that were made and are not kept, by pipeline."""
        self._histories.skip(keys)

    def close(self) -> None:
        """Nothing is left to write."""

    def _evict(self, pipeline_id: str, cause: Cause) -> None:
        kept = self._kept[pipeline_id]
        self._size -= kept.size
        entry = kept.pop()
        self._size += kept.size
        history = self._histories.find(pipeline_id)
        if history is not None:
            history.evict(entry.key, cause)


def changed(
    before: Mapping[str, Limits],
    given: Mapping[str, Keep | None],
    of_all: Limits,
    kept: Collection[str],
) -> dict[str, Limits]:
    """The limits of pipelines after a change.

    One that is not given, as it runs elsewhere by now, keeps its limits while anything of it is kept.
    """
    after = {name: limits for name, limits in before.items() if name in kept and name not in given}
    for name, keep in given.items():
        if keep is not None:
            size = of_all.size if keep.size is None else min(keep.size, of_all.size)
            after[name] = Limits(size, of_all.age if keep.age is None else keep.age)
    return after


def _size(entry: Entry) -> int:
    return len(entry.body) + _OVERHEAD
