"""The thread that keeps predictions and replays them, beside the thread that publishes.

    publishing thread ──keep──► [pending] ──batches──► store
                      ──handle► [requests] ──parts───► [outbox] ──► the publishing thread sends them

The publishing thread only appends to queues. Everything that costs more happens here, in small batches: it
never waits for the disk, and a stuck disk costs predictions of the store, not live ones. `pacing` says how
many predictions a second are replayed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from streamfleet_core.peers.replay import (
    MAX_GENERATION,
    Holder,
    Key,
    ReplayAnswer,
    ReplayHolders,
    ReplayRequest,
    Span,
    after,
)
from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind, replay_note, subject_of
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.status import KeepingStat
from streamfleet_core.protocol.values import Keep
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.host.host_stats import cores
from streamfleet_worker.ipc.child_messages import KeepConfig
from streamfleet_worker.publisher.replay.pacing import PART, Network, Pacing
from streamfleet_worker.publisher.replay.spool import CUTS, LIMITS, Spool
from streamfleet_worker.publisher.replay.store import Entry, MemoryStore, Store

logger = logging.getLogger(__name__)

BATCH_INTERVAL = 0.25  # seconds between two batches
MAX_PENDING = 20_000  # predictions that wait for the store; further ones are not kept
MAX_PENDING_BYTES = 32 * 1024**2
READ_SHARE = 0.25  # of the time at most is for reading what is asked for: others wait for the keeper, too
MAX_REQUESTS = 1024  # that wait; further ones are ignored, and their subscribers ask again
PART_BYTES = 1024**2

Replayed = tuple[bytes, bytes, bytes]  # topic, header, body


class Keeper:
    """Keeps predictions. `keep`, `handle` and `take` are for the publishing thread."""

    def __init__(self, config: KeepConfig, device: str, *, clock: Callable[[], float] = boot_time) -> None:
        self._config = config
        self._device = device
        self._clock = clock
        self._pending: deque[tuple[bytes, bytes, bytes, float]] = deque()  # topic, header, body, time
        # Bytes that were ever appended to `_pending` and taken from it. Each is changed by one thread only.
        self._appended = self._taken = 0
        self._limits: Mapping[str, Keep | None] = {}  # of pipelines, until the store has them
        self._lost: dict[bytes, bytes] = {}  # by topic: the header of the last one that is not kept
        self._requests: OrderedDict[bytes, ReplayRequest] = OrderedDict()  # by topic
        self._outbox: deque[Replayed] = deque()
        self._network = Network()
        self._sending = 0.0  # CPU seconds that the publishing thread has spent on replays
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._work = threading.Event()
        self._closing = False
        self.keeping: KeepingStat | None = None  # None: not known yet
        self._lock = threading.Lock()  # of the requests
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """The descriptor that is readable while `take` has something."""
        return self._wakeup

    def keep(self, topic: bytes, header: bytes, body: bytes) -> None:
        """Keep a prediction that was published. Costs no more than a microsecond."""
        if len(self._pending) < MAX_PENDING and self._appended - self._taken < MAX_PENDING_BYTES:
            self._pending.append((topic, header, body, self._clock()))
            self._appended += len(body)
        else:
            self.lose(topic, header)

    def limit(self, limits: Mapping[str, Keep | None]) -> None:
        """Change the limits of these pipelines. None: those of all."""
        self._limits = limits

    def lose(self, topic: bytes, header: bytes) -> None:
        """Record that a prediction was made and is not kept: it may be the last one of its run."""
        self._lost[topic] = header

    def handle(self, subscription: bytes) -> None:
        """Handle a subscription or its end, as an XPUB receives it. Most are no requests for a replay."""
        request = ReplayRequest.parse(subscription[1:])
        if request is None:
            return
        with self._lock:
            if subscription[:1] != b"\1":
                self._requests.pop(request.topic, None)
            elif len(self._requests) < MAX_REQUESTS:
                self._requests[request.topic] = request
        self._work.set()

    def take(self) -> list[Replayed]:
        """The messages to send now."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakeup)
        found = []
        while self._outbox:
            found.append(self._outbox.popleft())
        return found

    def sent(self, seconds: float, network: Network) -> None:
        """Note how long it took to send what was taken, in CPU seconds, and how far the network is behind."""
        self._sending += seconds
        self._network = network

    def close(self, timeout: float = 1.0) -> None:
        """Write what is pending, for up to `timeout` seconds."""
        self._closing = True
        self._work.set()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            os.close(self._wakeup)

    # the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        store, trouble = _open(self._config, self._clock())
        where: Literal["memory", "disk"] = "disk" if isinstance(store, Spool) else "memory"
        replaying: deque[Replayed] = deque()  # the rest of the part that is being sent
        pacing = Pacing(cores(), self._clock())
        batch_at = read_at = send_at = 0.0
        spent = sent_before = 0.0  # CPU seconds: of this thread since it handed something over; of the other
        while True:
            closing, now = self._closing, self._clock()
            if closing or now >= batch_at or (self._requests and not replaying):
                batch_at = now + BATCH_INTERVAL
                lost, self._lost = self._lost, {}  # first: what waits before them is then taken, too
                batch = self._take_pending()
                if self._limits:
                    limits, self._limits = self._limits, {}
                    store.keep(limits)
                store.append(batch, now)
                store.skip(_keys(lost))
                self.keeping = KeepingStat(where, trouble or store.trouble)
                pacing.count_live(len(batch), now)
            if closing:
                break
            if replaying and now >= send_at:
                pacing.adapt(now - send_at, self._network, is_taken=not self._outbox)
            began = time.thread_time()  # not what others take of the processor meanwhile
            # Those for other devices take no time.
            while not replaying and self._requests and read_at - now < pacing.interval:
                read_from = time.thread_time()
                replaying.extend(self._next_part(store, pacing.part))
                read_at = max(read_at, now) + (time.thread_time() - read_from) / READ_SHARE
            count = self._hand_over(replaying, pacing, now)
            spent += time.thread_time() - began
            if count:
                sending, sent_before = self._sending - sent_before, self._sending
                pacing.spend(spent + sending, count)
                spent = 0.0
            if replaying or self._requests:
                self._work.clear()
                send_at = self._clock() + pacing.interval
                self._work.wait(pacing.interval)
            else:
                self._work.wait(max(0.0, batch_at - now))
                self._work.clear()
        store.close()

    def _hand_over(self, replaying: deque[Replayed], pacing: Pacing, now: float) -> int:
        """Hand messages to the publishing thread, if it has taken the last ones. Returns their number."""
        count = 0
        while replaying and (count or not self._outbox) and pacing.take(now):
            self._outbox.append(replaying.popleft())
            count += 1
        if count:
            os.eventfd_write(self._wakeup, 1)
        return count

    def _take_pending(self) -> list[Entry]:
        entries: list[Entry] = []
        for _ in range(len(self._pending)):
            topic, header, body, at = self._pending.popleft()
            self._taken += len(body)
            with contextlib.suppress(BadData):
                key = DataHeader.unpack(header).key
                entries.append(Entry(topic.split(b"/")[2].decode("ascii"), key, header, body, at))
        return entries

    def _next_part(self, store: Store, most: int) -> list[Replayed]:
        """The answer to the next request: at most so many predictions, and what they are."""
        with self._lock:
            if not self._requests:
                return []
            _, request = self._requests.popitem(last=False)
        return part_of(store, self._device, request, most)


def part_of(store: Store, device: str, request: ReplayRequest, most: int = PART) -> list[Replayed]:
    """The messages that answer a request; none if the device knows nothing of the pipeline."""
    count = min(request.count or most, most)
    entries = store.read(request.pipeline_id, request.start, count, PART_BYTES)
    history = store.history(request.pipeline_id)
    if history is None or history.last is None:
        return []
    done = not entries or entries[-1].key >= history.last
    until = history.last if done else entries[-1].key
    answer = ReplayAnswer(
        device=device,
        known_from=history.known_from,
        until=until,
        done=done,
        sent=_spans(entries),
        lost=history.losses(request.start, until),
        cut_off=history.cuts_since(request.start, until),
    )
    only_one = ReplayHolders((Holder(device, 0, MAX_GENERATION),))
    topic = request.topic
    return [
        (topic, replay_note(until, Flag.HOLDERS), only_one.encode()),
        *((topic, _again(entry.header), entry.body) for entry in entries),
        (topic, replay_note(until, Flag.ANSWER), answer.encode()),
    ]


def _keys(headers: dict[bytes, bytes]) -> dict[str, Key]:
    """The pipelines and keys of messages, by their topics and headers."""
    found: dict[str, Key] = {}
    for topic, header in headers.items():
        with contextlib.suppress(BadData):
            found[subject_of(topic)[1]] = DataHeader.unpack(header).key
    return found


def _open(config: KeepConfig, now: float) -> tuple[Store, str]:
    """The store on disk, or in memory if there is to be none or it cannot be made; and why it cannot."""
    folder, trouble = Path(config.folder), ""
    if config.disk_size:
        try:
            return Spool(folder, config.disk_size, config.age, now), ""
        except OSError as exc:
            trouble = f"not on disk: {exc.strerror}"
            logger.error("%s: predictions are kept in memory instead: %s", folder, exc.strerror)
    elif folder.is_dir():
        _remove(folder)
    return MemoryStore(config.memory_size, config.age), trouble


def _remove(folder: Path) -> None:
    """Remove what was kept when the disk was still to be used."""
    for path in (*folder.glob("*.log"), *folder.glob("*.index"), folder / CUTS, folder / LIMITS):
        with contextlib.suppress(OSError):
            path.unlink()


def _spans(entries: list[Entry]) -> tuple[Span, ...]:
    """The keys of sorted entries."""
    spans: list[Span] = []
    for entry in entries:
        if spans and after(spans[-1].high) == entry.key:
            spans[-1] = Span(*spans[-1].low, entry.key[2])
        else:
            spans.append(Span(*entry.key, entry.key[2]))
    return tuple(spans)


def _again(header: bytes) -> bytes:
    """The header of a prediction as that of its replay."""
    return replace(DataHeader.unpack(header), kind=Kind.REPLAY).pack()
