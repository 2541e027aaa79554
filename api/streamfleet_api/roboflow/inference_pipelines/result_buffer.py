"""Buffers of results that wait for a consumer, oldest first. Pure: `now` is in monotonic seconds.

An entry has one place per source. It is closed when every source has a result in it, when a source delivers
its next one, or at its timeout; the places of the other sources stay empty.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 256 * 1024**2  # of all waiting results
RING_BYTES = 32 * 1024**2  # of the waiting results of one pipeline
WAIT = 2.0  # seconds that an entry waits for the other sources, by default
_OVERHEAD = 300  # bytes of a result in addition to its body


@dataclass(frozen=True, slots=True)
class Result:
    """The predictions of one frame of one source, as received."""

    source: int
    key: tuple[int, int, int]  # (gen, inc, seq)
    captured_at: float  # Unix seconds
    body: bytes  # msgpack

    @property
    def size(self) -> int:
        """Approximate size in memory (bytes)."""
        return len(self.body) + _OVERHEAD


Entry = tuple[Result | None, ...]  # by source


class Ring:
    """A bounded queue of entries. When it is full, the oldest are dropped and counted."""

    def __init__(self, sources: int, *, size: int, wait: float = WAIT) -> None:
        self.bytes = 0  # of all waiting results
        self._sources = sources
        self._size = size
        self._wait = wait
        self._closed: deque[Entry] = deque()
        self._open: dict[int, Result] = {}
        self._opened_at = 0.0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._closed) + bool(self._open)

    def push(self, result: Result, now: float) -> None:
        """Add a result. A pipeline may have more sources after a change."""
        self._sources = max(self._sources, result.source + 1)
        if result.source in self._open or self._is_overdue(now):
            self._close()
        if not self._open:
            self._opened_at = now
        self._open[result.source] = result
        self.bytes += result.size
        if len(self._open) == self._sources:
            self._close()
        while len(self._closed) > self._size:
            self.drop_oldest()

    def pop(self, now: float) -> Entry | None:
        """Take the oldest entry; None when none is complete."""
        if not self._closed and self._is_overdue(now):
            self._close()
        return self._take() if self._closed else None

    def drop_oldest(self) -> None:
        """Drop the oldest entry. The ring must not be empty."""
        if not self._closed:
            self._close()
        self._take()
        self._dropped += 1

    def take_dropped(self) -> int:
        """The number of entries dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _is_overdue(self, now: float) -> bool:
        return bool(self._open) and now - self._opened_at >= self._wait

    def _close(self) -> None:
        self._closed.append(tuple(self._open.get(source) for source in range(self._sources)))
        self._open = {}

    def _take(self) -> Entry:
        entry = self._closed.popleft()
        self.bytes -= sum(result.size for result in entry if result is not None)
        return entry


class Rings:
    """The rings of all pipelines, within a common limit: the fullest ring drops its oldest entries first."""

    def __init__(self, *, limit: int = MAX_BYTES, each: int = RING_BYTES) -> None:
        self.bytes = 0
        self._limit = limit
        self._each = each
        self._rings: dict[str, Ring] = {}

    def begin(self, pipeline_id: str, ring: Ring) -> None:
        """Add an empty ring, replacing an earlier one."""
        self.end(pipeline_id)
        self._rings[pipeline_id] = ring

    def end(self, pipeline_id: str) -> None:
        """Remove a ring and its results."""
        ring = self._rings.pop(pipeline_id, None)
        if ring is not None:
            self.bytes -= ring.bytes

    def push(self, pipeline_id: str, result: Result, now: float) -> None:
        """Add a result to an existing ring."""
        ring = self._rings[pipeline_id]
        with self._weighed(ring):
            ring.push(result, now)
            while ring.bytes > self._each:
                ring.drop_oldest()
        while self.bytes > self._limit:
            fullest = max(self._rings.values(), key=lambda each: each.bytes)
            with self._weighed(fullest):
                fullest.drop_oldest()

    def pop(self, pipeline_id: str, now: float) -> tuple[Entry, int] | None:
        """Take the oldest entry, with the number of entries dropped before it; None when none is complete."""
        ring = self._rings[pipeline_id]
        with self._weighed(ring):
            entry = ring.pop(now)
        return None if entry is None else (entry, ring.take_dropped())

    @contextlib.contextmanager
    def _weighed(self, ring: Ring) -> Iterator[None]:
        """Keep the total size correct while a ring changes."""
        before = ring.bytes
        yield
        self.bytes += ring.bytes - before
