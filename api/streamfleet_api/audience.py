"""All who follow a stream of this api: how many there may be, what waits for each, and who is stuck.

A source pushes into the backlogs and never waits. Each follower has a task that writes what waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from streamfleet_api.background import Background
from streamfleet_api.backlog import Backlog, Message

logger = logging.getLogger(__name__)

MAX_FOLLOWERS = 500
PING = 5.0  # seconds of silence after which a sign of life is due
_SWEEP = 1.0  # seconds, or as often as the above need it

F = TypeVar("F", bound=Hashable)


class TooManyFollowers(Exception):
    """Each follower costs memory, so their number is bounded."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__(f"{limit} {what} are open already: close one")


class Follower:
    """One client: what waits for it, and how its writing goes."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        self.ended = False  # what waits is written, and then no more
        self.ping_due = False
        self._ready = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()  # when the write under way began, or else when the last one ended
        self._writing = False
        self._task: asyncio.Task[None] | None = None

    def push(self, message: Message) -> None:
        """Add a message to what waits."""
        self.backlog.push(message)
        self._ready.set()

    def end(self) -> None:
        """Let it go after what it has."""
        self.ended = True
        self._ready.set()

    async def wait(self) -> None:
        """Until something waits, a sign of life is due, or the end has come."""
        await self._ready.wait()
        self._ready.clear()

    async def write(self, sending: Awaitable[None]) -> None:
        """Await what writes; whoever sweeps sees how long it takes."""
        self._since, self._writing = self._clock(), True
        await sending
        self._since, self._writing = self._clock(), False

    @contextlib.contextmanager
    def written_by(self, task: asyncio.Task[None]) -> Iterator[None]:
        """The task that is cancelled when this follower is stuck."""
        self._task = task
        try:
            yield
        finally:
            self._task = None

    def sweep(self, stuck: float) -> None:
        """Cut it off when it has been stuck for so long; wake it when a sign of life is due."""
        waited = self._clock() - self._since
        if self._writing and waited > stuck and self._task is not None:
            logger.warning("a client of a stream took nothing for %.0f s: left", waited)
            self._task.cancel()
        elif not self._writing and waited > PING:
            self.ping_due = True
            self._ready.set()


class Audience:
    """Everybody, of whatever stream."""

    def __init__(self, *, limit: int = MAX_FOLLOWERS, stuck: float) -> None:
        self.ended = False
        self._limit = limit
        self._stuck = stuck
        self._followers: set[Follower] = set()
        self._work = Background("audience", self._sweep)

    def __len__(self) -> int:
        return len(self._followers)

    async def start(self) -> None:
        """Begin to look who is stuck."""
        self._work.start()

    async def close(self) -> None:
        """End all streams."""
        self.end()
        await self._work.close()

    def end(self) -> None:
        """Let every stream end after what it has."""
        self.ended = True
        for follower in self._followers:
            follower.end()

    @contextlib.contextmanager
    def admit(self, backlog: Backlog) -> Iterator[Follower]:
        """A new follower. Raises: TooManyFollowers."""
        if len(self._followers) >= self._limit:
            raise TooManyFollowers(self._limit, "streams")
        follower = Follower(backlog)
        if self.ended:
            follower.end()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP, self._stuck / 4))
            for follower in self._followers:
                follower.sweep(self._stuck)


class Hub(Generic[F]):
    """The followers of one kind of stream, grouped by what they chose: a choice is judged once for all."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._groups: dict[F, set[Follower]] = {}

    @property
    def groups(self) -> Mapping[F, set[Follower]]:
        """The followers of each choice; no group is empty."""
        return self._groups

    @contextlib.contextmanager
    def follow(self, chosen: F, backlog: Backlog) -> Iterator[Follower]:
        """A follower of what was chosen. Raises: TooManyFollowers."""
        with self._audience.admit(backlog) as follower:
            group = self._groups.setdefault(chosen, set())
            group.add(follower)
            try:
                yield follower
            finally:
                group.discard(follower)
                if not group:
                    del self._groups[chosen]

    def push(self, message: Message) -> None:
        """Tell everybody, whatever they chose."""
        for group in self._groups.values():
            for follower in group:
                follower.push(message)
