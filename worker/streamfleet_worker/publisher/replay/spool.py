"""The store on disk: segments that are only appended to, and removed as a whole.

    <folder>/<number>.log    records of all pipelines, in the order of their publishing
    <folder>/<number>.index  the spans of each pipeline in a complete segment
    <folder>/cuts            whether the last process ended in order, and where runs were cut off before
    <folder>/limits          the limits of pipelines that have some of their own

    record: length 4 · CRC-32 of the rest 4 · length of the id 1 · id · header 48 · body

A pipeline with limits of its own has segments of its own: they go at another time than those of the others.
Records are written in batches, and the kernel decides when they reach the disk: a killed process loses only
what it has not written, and a power cut the last half minute. Whatever cannot be read is skipped and told.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import struct
import time
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from streamfleet_core.peers.replay import Cause, Key, Span, after
from streamfleet_core.protocol.data_plane import HEADER_SIZE, DataHeader
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import ID_PATTERN, MAX_DATA_BODY, whole
from streamfleet_core.protocol.values import Keep, Natural
from streamfleet_core.runtime.small_file import read_small
from streamfleet_worker.publisher.replay.history import History
from streamfleet_worker.publisher.replay.store import Entry, Histories, Limits, changed

logger = logging.getLogger(__name__)

SEGMENT = 4 * 1024**2  # bytes after which a new segment is begun
SPARE = 64 * 1024**2  # bytes that are left to others on the disk
MARK = 64 * 1024  # bytes of a pipeline between two places from which its records are found
READ_AT_ONCE = 2 * SEGMENT  # bytes to look through for one part, however few of them are of its pipeline
_SEGMENTS = 8  # at least, so that removing one does not remove everything
_FULL = (errno.ENOSPC, errno.EDQUOT)
_HEAD = struct.Struct(">II")
_LONGEST_ID = 64
_MAX_RECORD = 1 + _LONGEST_ID + HEADER_SIZE + MAX_DATA_BODY
_MAX_INDEX = 1024**2  # bytes
CUTS, LIMITS = "cuts", "limits"  # the names of files
_MAX_LIMITS = 1024**2  # bytes
_ALL = ""  # in place of a pipeline: all that have no limits of their own
_MAX_CUTS = 1024**2  # bytes
_IS_ID = re.compile(whole(ID_PATTERN)).match


class _Cuts(msgspec.Struct, array_like=True):
    """The content of the file of cuts."""

    is_closed: bool  # in order: everything was written
    keys: dict[str, list[tuple[Natural, Natural, Natural]]]  # by pipeline


class _Index(msgspec.Struct, array_like=True):
    """The content of an index. The size says which content of the segment it describes."""

    size: int
    spans: list[tuple[str, Span]]  # in order


@dataclass(slots=True)
class _Marks:
    """Places in a segment: what follows a key is not before its offset. Both lists are sorted."""

    keys: list[Key] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    since: int = 0  # bytes of the pipeline since the last mark
    known_to: int = 0  # the end of the last record that was noted

    def note(self, key: Key, end: int, size: int) -> None:
        """A record of `size` bytes ends there. Ignored if it was noted before."""
        if end <= self.known_to:
            return
        self.known_to = end
        self.since += size
        if self.since >= MARK:
            self.since = 0
            self.keys.append(key)
            self.offsets.append(end)

    def offset(self, start: Key) -> int:
        """Where to begin to look for a key and those after it."""
        at = bisect_left(self.keys, start)
        return self.offsets[at - 1] if at else 0


@dataclass(slots=True)
class _Segment:
    number: int
    began: float  # CLOCK_BOOTTIME seconds
    owner: str = _ALL  # the pipeline that it is of
    file: int | None = None  # while it is written
    size: int = 0  # bytes
    is_damaged: bool = False  # which was told
    spans: list[tuple[str, Span]] = field(default_factory=list)  # in the order of writing
    ends: dict[str, Key] = field(default_factory=dict)  # pipeline → its last key in here
    marks: dict[str, _Marks] = field(default_factory=dict)  # by pipeline

    def add(self, pipeline_id: str, span: Span) -> None:
        """Record what was written, joined with the last span if it continues that."""
        if self.spans:
            name, last = self.spans[-1]
            joins = (name, last.generation, last.incarnation, last.last + 1) == (pipeline_id, *span.low)
            if joins:
                span = Span(last.generation, last.incarnation, last.first, span.last)
                self.spans.pop()
        self.spans.append((pipeline_id, span))
        self.ends[pipeline_id] = span.high


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the next part of a replay begins."""

    start: Key
    number: int
    offset: int


class Spool:
    """Keeps predictions in a folder, which no other process uses.

    Args:
        size: limit in bytes.
        age: limit in seconds.
        now: CLOCK_BOOTTIME seconds.

    Raises: OSError, if there is no such folder and it cannot be made.
    """

    def __init__(self, folder: Path, size: int, age: float, now: float) -> None:
        self._folder = folder
        self._limits = Limits(size, age)
        self._of_pipelines: dict[str, Limits] = {}
        self._segments: dict[str, deque[_Segment]] = {_ALL: deque()}  # by owner, the oldest first
        self._number = 0  # of the last segment
        self._histories = Histories()
        self._trouble = ""  # why nothing can be written; "": it can
        self._places: dict[str, _Place] = {}  # by pipeline: where the last part that was read ends
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load(now)

    @property
    def trouble(self) -> str:
        """Why predictions are not kept at the moment; "" if they are."""
        return self._trouble

    def history(self, pipeline_id: str) -> History | None:
        """What is kept and lost of a pipeline; None: nothing is known of it."""
        return self._histories.find(pipeline_id)

    def keep(self, limits: Mapping[str, Keep | None]) -> None:
        """Change the limits of these pipelines. None: those of the store. The others stay as they are."""
        after = changed(self._of_pipelines, limits, self._limits, self._segments)
        if after == self._of_pipelines:
            return
        # Keys increase from segment to segment: what follows goes into later ones than what is there.
        for owner in {_ALL, *(after.keys() ^ self._of_pipelines.keys())}:
            for segment in self._segments.get(owner, ()):
                self._complete(segment)
        self._of_pipelines = after
        self._write_limits()

    def append(self, entries: list[Entry], now: float) -> None:
        """Write these, and remove what is beyond the limits. Without room, they are counted as unwritten."""
        self._remove_old(now)
        of_owners: dict[str, list[Entry]] = {}
        for entry in entries:
            if self._is_new(entry):
                owner = entry.pipeline_id if entry.pipeline_id in self._of_pipelines else _ALL
                of_owners.setdefault(owner, []).append(entry)
        for owner, new in of_owners.items():
            limits = self._limits_of(owner)
            if limits.size and limits.age:
                self._append(owner, new, now)
            else:
                self._forget(new, "age" if limits.size else "size")

    def _forget(self, new: list[Entry], cause: Cause) -> None:
        """Count predictions of which nothing is to be kept."""
        for entry in new:
            history = self._histories.of(entry.pipeline_id)
            if history.append(entry.key):
                history.evict(entry.key, cause)

    def _append(self, owner: str, new: list[Entry], now: float) -> None:
        """Write predictions of one owner."""
        packed = [_pack(entry) for entry in new]
        try:
            segment = self._write(owner, b"".join(packed), now)
        except OSError as exc:
            self._end_segments(owner)
            if not self._trouble:
                logger.error("%s: predictions are not kept: %s", self._folder, exc.strerror)
            self._trouble = exc.strerror or str(exc)
            for entry in new:
                self._histories.of(entry.pipeline_id).skip(entry.key)
            return
        if self._trouble:
            logger.info("%s: predictions are kept again", self._folder)
            self._trouble = ""
        end = segment.size - sum(map(len, packed))
        for entry, record in zip(new, packed, strict=True):
            end += len(record)
            if self._histories.of(entry.pipeline_id).append(entry.key):
                segment.add(entry.pipeline_id, Span(*entry.key, entry.key[2]))
                segment.marks.setdefault(entry.pipeline_id, _Marks()).note(entry.key, end, len(record))
        if segment.size >= max(1, min(SEGMENT, self._limits_of(owner).size // _SEGMENTS)):
            self._complete(segment)

    def read(self, pipeline_id: str, start: Key, count: int, size: int) -> list[Entry]:
        """The kept predictions from a key on: at most `count`, and no more once they have `size` bytes."""
        found: list[Entry] = []
        history = self._histories.find(pipeline_id)
        if history is None or not history.kept:
            return found
        start = max(start, history.kept[0].low)  # what is before is gone, whatever is still on the disk
        place = self._places.pop(pipeline_id, None)
        known = place if place is not None and place.start == start else None
        looked, found_to = 0, 0  # bytes; the end of the last found one
        for segment in self._both(pipeline_id):
            if segment.ends.get(pipeline_id, (-1, 0, 0)) < start:
                continue
            if known is not None and segment.number < known.number:
                continue
            marks = segment.marks.setdefault(pipeline_id, _Marks())
            offset = marks.offset(start)
            if known is not None and segment.number == known.number:
                offset = known.offset
            for entry, end in self._records(segment, offset, only=pipeline_id):
                marks.note(entry.key, end, len(entry.body))  # of an earlier process
                if entry.key < start:
                    continue
                found.append(entry)
                found_to = end
                size -= len(entry.body)
                if len(found) >= count or size <= 0:
                    break
            looked += segment.size - offset
            if found and (len(found) >= count or size <= 0 or looked >= READ_AT_ONCE):
                self._remember(pipeline_id, _Place(after(found[-1].key), segment.number, found_to))
                return found
        return found

    def skip(self, keys: Mapping[str, Key]) -> None:
        """Record predictions that were made and are not kept, by pipeline."""
        self._histories.skip(keys)

    def close(self) -> None:
        """Complete the last segments."""
        for segments in self._segments.values():
            for segment in segments:
                self._complete(segment)
        self._write_cuts(is_closed=True)

    def _limits_of(self, owner: str) -> Limits:
        return self._of_pipelines.get(owner, self._limits)

    def _both(self, pipeline_id: str) -> list[_Segment]:
        """The segments in which a pipeline may be: those of all, and its own."""
        own = self._segments.get(pipeline_id, ())
        return sorted((*self._segments[_ALL], *own), key=lambda segment: segment.number)

    # writing ----------------------------------------------------------------------------------------------

    def _is_new(self, entry: Entry) -> bool:
        history = self._histories.find(entry.pipeline_id)
        return history is None or history.last is None or entry.key > history.last

    def _write(self, owner: str, content: bytes, now: float) -> _Segment:
        """Write to the last segment of an owner. Raises: OSError."""
        while True:
            done = self._append_bytes(owner, content, now)
            if isinstance(done, _Segment):
                return done
            # Room is made of our own oldest segments, never of the last one or one that is being written.
            count = sum(map(len, self._segments.values()))
            if done.errno not in _FULL or count < 2 or not self._remove_oldest(now):
                raise done

    def _append_bytes(self, owner: str, content: bytes, now: float) -> _Segment | OSError:
        """Append to the last segment, all or nothing. Returns it, or why it could not be done."""
        segments = self._segments.setdefault(owner, deque())
        try:
            if not segments or segments[-1].file is None:
                segments.append(self._new_segment(owner, now))
        except OSError as exc:
            return exc
        segment = segments[-1]
        assert segment.file is not None
        try:
            written = os.write(segment.file, content)
            while written < len(content):
                written += os.write(segment.file, content[written:])
        except OSError as exc:
            os.ftruncate(segment.file, segment.size)  # half a record would hide all that follow
            return exc
        segment.size += len(content)
        return segment

    def _new_segment(self, owner: str, now: float) -> _Segment:
        """Begin a segment. Raises: OSError."""
        free = os.statvfs(self._folder)
        if free.f_bavail * free.f_frsize < SPARE:
            raise OSError(errno.ENOSPC, f"less than {SPARE >> 20} MiB are free on the disk")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(self._path(self._number + 1), flags, 0o600)
        self._number += 1
        return _Segment(self._number, now, owner, file)

    def _complete(self, segment: _Segment) -> None:
        """End a segment, and write its index: the next start need not read the segment."""
        if segment.file is None:
            return
        self._end_segment(segment)
        content = msgspec.msgpack.encode(_Index(segment.size, segment.spans))
        if len(content) <= _MAX_INDEX:
            checked = zlib.crc32(content).to_bytes(4, "big") + content
            with contextlib.suppress(OSError):  # without it, the next start reads the segment
                self._path(segment.number).with_suffix(".index").write_bytes(checked)

    def _end_segments(self, owner: str) -> None:
        for segment in self._segments.get(owner, ()):
            self._end_segment(segment)

    def _end_segment(self, segment: _Segment) -> None:
        file, segment.file = segment.file, None
        if file is not None:
            with contextlib.suppress(OSError):  # it is closed in any case
                os.close(file)

    # removing ---------------------------------------------------------------------------------------------

    def _remove_old(self, now: float) -> None:
        for owner, segments in list(self._segments.items()):
            limits = self._limits_of(owner)
            for segment in segments:
                if segment.file is not None and now - segment.began > limits.age / _SEGMENTS:
                    self._complete(segment)
            while segments and self._ended(segments, 0, now) <= now - limits.age:
                self._remove_first(owner, "age")
            while len(segments) > 1 and sum(each.size for each in segments) > limits.size:
                self._remove_first(owner, "size")
        everything = [each for segments in self._segments.values() for each in segments]
        sizes = sum(each.size for each in everything)
        while sizes > self._limits.size and len(everything) > 1:
            removed = self._remove_oldest(now)
            if removed is None:  # each is written
                self._complete(max(everything, key=lambda each: each.size))
                continue
            sizes -= removed.size
            everything.remove(removed)

    def _remove_oldest(self, now: float) -> _Segment | None:
        """Remove the segment that is complete for longest, of whatever pipelines. None: there is none."""
        complete = [
            (self._ended(segments, 0, now), owner)
            for owner, segments in self._segments.items()
            if segments and segments[0].file is None
        ]
        return self._remove_first(min(complete)[1], "size") if complete else None

    def _ended(self, segments: Sequence[_Segment], index: int, now: float) -> float:
        """When a segment got its last record: when the next one began."""
        if index + 1 < len(segments):
            return segments[index + 1].began
        return now if segments[index].file is not None else segments[index].began

    def _remove_first(self, owner: str, cause: Cause) -> _Segment:
        segment = self._segments[owner].popleft()
        if not self._segments[owner] and owner != _ALL:
            del self._segments[owner]
        self._end_segment(segment)
        for path in (self._path(segment.number), self._path(segment.number).with_suffix(".index")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        for pipeline_id, key in segment.ends.items():
            history = self._histories.find(pipeline_id)
            if history is not None:
                history.evict(key, cause)
        return segment

    # reading ----------------------------------------------------------------------------------------------

    def _load(self, now: float) -> None:
        """Take over the segments of an earlier process. What cannot be read is skipped."""
        self._of_pipelines = self._read_limits()
        for number in sorted(_numbers(self._folder)):
            path = self._path(number)
            try:
                facts = path.stat()
            except OSError as exc:
                logger.warning("%s: skipped: %s", path, exc.strerror)
                continue
            age = max(0.0, time.time() - facts.st_mtime)
            segment = _Segment(number, now - age, size=facts.st_size)
            spans = self._read_index(path, facts.st_size)
            if spans is None:
                spans = self._scan(segment)
            for pipeline_id, span in spans:
                segment.add(pipeline_id, span)
                self._histories.of(pipeline_id).load(span)
            owners = list(segment.ends)
            if len(owners) == 1 and owners[0] in self._of_pipelines:
                segment.owner = owners[0]
            self._segments.setdefault(segment.owner, deque()).append(segment)
            self._number = number
        self._remove_old(now)
        self._load_cuts()

    def _load_cuts(self) -> None:
        """Note that all runs were cut off, unless the last process ended in order."""
        known = self._read_cuts()
        for pipeline_id, keys in known.keys.items():
            history = self._histories.find(pipeline_id)
            if history is not None:
                history.cuts.extend(sorted(keys))
        if not known.is_closed:
            self._histories.cut()
        self._write_cuts(is_closed=False)

    def _read_cuts(self) -> _Cuts:
        try:
            content = read_small(self._folder / CUTS, most=_MAX_CUTS)
            return msgspec.msgpack.decode(content, type=_Cuts)
        except (OSError, msgspec.MsgspecError, ValueError):
            return _Cuts(is_closed=False, keys={})

    def _write_cuts(self, *, is_closed: bool) -> None:
        keys = {name: list(each) for name, each in self._histories.cuts().items()}
        content = msgspec.msgpack.encode(_Cuts(is_closed, keys))
        path, draft = self._folder / CUTS, self._folder / f".{CUTS}"
        try:
            draft.write_bytes(content)
            draft.replace(path)
        except OSError:  # without the file, all runs count as cut off
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _read_limits(self) -> dict[str, Limits]:
        try:
            content = read_small(self._folder / LIMITS, most=_MAX_LIMITS)
            return msgspec.msgpack.decode(content, type=dict[str, Limits])
        except (OSError, msgspec.MsgspecError, ValueError):
            return {}

    def _write_limits(self) -> None:
        path, draft = self._folder / LIMITS, self._folder / f".{LIMITS}"
        try:
            draft.write_bytes(msgspec.msgpack.encode(self._of_pipelines))
            draft.replace(path)
        except OSError as exc:  # they are told again after the next start
            logger.warning("%s: %s", path, exc.strerror)

    def _read_index(self, path: Path, size: int) -> list[tuple[str, Span]] | None:
        try:
            with path.with_suffix(".index").open("rb") as file:
                content = file.read(_MAX_INDEX + 5)
            if zlib.crc32(content[4:]) != int.from_bytes(content[:4], "big"):
                return None
            index = msgspec.msgpack.decode(content[4:], type=_Index)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        return index.spans if index.size == size else None

    def _scan(self, segment: _Segment) -> list[tuple[str, Span]]:
        found = _Segment(segment.number, 0.0)
        for entry, _ in self._records(segment, 0, only=None):
            found.add(entry.pipeline_id, Span(*entry.key, entry.key[2]))
        return found.spans

    def _records(self, segment: _Segment, offset: int, only: str | None) -> Iterator[tuple[Entry, int]]:
        """The records of a segment and their ends. A damaged one ends it."""
        path = self._path(segment.number)
        prefix = b"" if only is None else bytes([len(only)]) + only.encode("ascii")
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while head := file.read(_HEAD.size):
                    length, checksum = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
                    content = file.read(length) if HEADER_SIZE < length <= _MAX_RECORD else b""
                    offset += len(head) + len(content)
                    if not content or len(content) != length or zlib.crc32(content) != checksum:
                        self._tell(segment, f"damaged at byte {offset}: the rest is skipped")
                        return
                    if content.startswith(prefix):
                        yield _unpack(content), offset
        except OSError as exc:
            self._tell(segment, f"cannot be read: {exc.strerror}")
        except BadData as exc:
            self._tell(segment, f"damaged at byte {offset}: {exc}")

    def _tell(self, segment: _Segment, what: str) -> None:
        """Log about a segment once: subscribers choose how often it is read."""
        if not segment.is_damaged:
            segment.is_damaged = True
            logger.warning("%s: %s", self._path(segment.number), what)

    def _remember(self, pipeline_id: str, place: _Place) -> None:
        if len(self._places) >= 64:
            self._places.clear()
        self._places[pipeline_id] = place

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.log"


def _pack(entry: Entry) -> bytes:
    name = entry.pipeline_id.encode("ascii")
    content = b"%c%s%s%s" % (len(name), name, entry.header, entry.body)
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def _unpack(content: bytes) -> Entry:
    """Decode a record. Raises: BadData."""
    header_at = 1 + content[0]
    body_at = header_at + HEADER_SIZE
    if content[0] > _LONGEST_ID or len(content) < body_at:
        raise BadData("an id and a header", f"{len(content)} bytes")
    name, header = content[1:header_at], content[header_at:body_at]
    if not _IS_ID(name.decode("ascii", "replace")):
        raise BadData("the id of a pipeline", repr(name))
    return Entry(name.decode("ascii"), DataHeader.unpack(header).key, header, content[body_at:], 0.0)


def _numbers(folder: Path) -> Iterator[int]:
    for path in folder.glob("*.log"):
        if path.stem.isascii() and path.stem.isdigit():
            yield int(path.stem)
