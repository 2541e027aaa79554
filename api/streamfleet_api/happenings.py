"""What happens to pipelines and devices: one long poll of the broker for all who follow.

The last of it is kept here, so that a follower who was away gets what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from streamfleet_api.audience import Audience, Follower, Hub
from streamfleet_api.background import Background
from streamfleet_api.backlog import Backlog, Message, gap
from streamfleet_api.filters import Document, Mark
from streamfleet_api.link import BrokerUnreachable, Link, LinkError
from streamfleet_api.roster import Roster
from streamfleet_api.wire import render
from streamfleet_broker.protocol.requests import Events, GetEvents
from streamfleet_broker.protocol.values import to_plain

logger = logging.getLogger(__name__)

MAX_KEPT = 2_000  # events
_WAIT_MS = 3_000  # that the broker may wait for an event
_TIMEOUT = 4.0  # seconds, after which the broker is away
_PAUSE = 1.0  # seconds between two attempts
_BREATH = 0.1  # seconds after an answer without news: whoever does not wait must not make us run
_START = Mark(0, 0)


@dataclass(frozen=True, slots=True)
class _Entry:
    mark: Mark
    message: Message
    event: Document | None  # None: a gap


class Ring:
    """The last events in order, with a note where some are missing. Pure."""

    def __init__(self, *, limit: int = MAX_KEPT) -> None:
        self._entries: deque[_Entry] = deque(maxlen=limit)
        self.last = _START

    def add(self, came: Events) -> list[Message]:
        """What is new, to be told."""
        if came.epoch < self.last.epoch:  # a broker that was made anew
            self._entries.clear()
            self.last = _START
        events = [event for event in came.events if Mark(came.epoch, event.n) > self.last]
        news: list[_Entry] = []
        mark = Mark(came.epoch, events[0].n if events else 0)
        if came.lost and _START < self.last < mark:
            news.append(_Entry(mark, gap(_between(self.last, mark)), None))
        for event in events:
            mark = Mark(came.epoch, event.n)
            document = {"epoch": came.epoch, **to_plain(event)}
            news.append(_Entry(mark, Message("event", render(document), str(mark)), document))
        self._entries.extend(news)
        if came.events:
            self.last = Mark(came.epoch, came.events[-1].n)
        elif came.epoch > self.last.epoch:
            self.last = Mark(came.epoch, 0)
        return [entry.message for entry in news]

    def after(self, mark: Mark) -> list[Message]:
        """What came after this one, with a note first when some of it is not known; 0-0: all that is."""
        later = [entry for entry in self._entries if entry.mark > mark]
        missing: list[Message] = []
        if mark != _START and later and later[0] is self._entries[0] and later[0].mark != mark.next:
            missing = [gap(_between(mark, later[0].mark))]
        return [*missing, *(entry.message for entry in later)]

    def recent(self, limit: int) -> list[Document]:
        """The last events, oldest first."""
        events = [entry.event for entry in self._entries if entry.event is not None]
        return events[-limit:]


def _between(earlier: Mark, later: Mark) -> int | None:
    """How many events are between two; nobody knows how many the end of an epoch had."""
    return later.n - earlier.n - 1 if earlier.epoch == later.epoch else None


class Happenings:
    """The poll, the ring, and those who follow."""

    def __init__(self, link: Link, audience: Audience, roster: Roster) -> None:
        self._link = link
        self._hub: Hub[None] = Hub(audience)
        self._roster = roster
        self._ring = Ring()
        self._work = Background("happenings", self._run)

    async def start(self) -> None:
        """Begin to ask."""
        self._work.start()

    async def close(self) -> None:
        """Ask no more."""
        await self._work.close()

    @contextlib.contextmanager
    def follow(self, after: Mark | None) -> Iterator[Follower]:
        """A follower of what happened after this, or of what happens next. Raises: TooManyFollowers."""
        with self._hub.follow(None, Backlog(max_messages=MAX_KEPT + 256)) as follower:
            for message in [] if after is None else self._ring.after(after):
                follower.push(message)
            yield follower

    def recent(self, limit: int) -> tuple[list[Document], Mark]:
        """The last events, oldest first, and where to go on."""
        return self._ring.recent(limit), self._ring.last

    async def _run(self) -> None:
        heard = time.monotonic()
        while True:
            asked = self._ring.last
            question = GetEvents(asked.epoch, asked.n, _WAIT_MS)
            try:
                came = await self._link.ask(question, Events, timeout=_TIMEOUT)
            except LinkError as exc:
                silent = time.monotonic() - heard
                level = logging.DEBUG if isinstance(exc, BrokerUnreachable) else logging.WARNING
                logger.log(level, "no events from the broker for %.0f s: %s", silent, exc)
                self._hub.push(Message("silence", render({"seconds": round(silent, 1)}), subject="silence"))
                await asyncio.sleep(_PAUSE)
                continue
            heard = time.monotonic()
            news = self._ring.add(came)
            for message in news:
                self._hub.push(message)
            self._roster.happened(came.events)
            if not news:
                await asyncio.sleep(_BREATH)
