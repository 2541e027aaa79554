"""The newest picture of each source whose results are consumed with pictures in them.

A camera makes pictures only while somebody looks, so a look begins with the first question, and ends when
nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from streamfleet_api.audience import Follower, TooManyFollowers
from streamfleet_api.filters import PictureFilter
from streamfleet_api.pictures import Pictures

FIRST = 3.0  # seconds that the first picture may take, as often as it is asked for
IDLE = 5.0  # seconds without a question after which a look ends
_POLL = 0.2  # seconds: two who ask at once are woken one after the other


@dataclass(slots=True)
class _Look:
    follower: Follower
    ending: contextlib.ExitStack
    asked_at: float
    jpeg: bytes | None = None
    waits_until: float = field(default=0.0)  # for the first picture; after that nobody waits any more

    def newest(self) -> bytes | None:
        for message in self.follower.backlog.take():
            if message.kind == "picture":
                self.jpeg = message.data
        return self.jpeg


class Views:
    """The looks of this api. `now` is in monotonic seconds. One event loop uses it."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._looks: dict[PictureFilter, _Look] = {}

    async def newest(self, pipeline_id: str, source: int) -> bytes | None:
        """The newest JPEG of a source; None when it gives none, or when too many look already."""
        chosen = PictureFilter(pipeline_id, source)
        now = time.monotonic()
        try:
            look = self._looks.get(chosen) or self._begin(chosen, now)
        except TooManyFollowers:
            return None
        look.asked_at = now
        while look.newest() is None and time.monotonic() < look.waits_until:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(look.follower.wait(), _POLL)
        return look.jpeg

    def rest(self, now: float) -> None:
        """End the looks that nobody needs."""
        for chosen in [each for each, look in self._looks.items() if now - look.asked_at > IDLE]:
            self._looks.pop(chosen).ending.close()

    def end(self, pipeline_id: str) -> None:
        """End the looks at a pipeline."""
        for chosen in [each for each in self._looks if each.pipeline_id == pipeline_id]:
            self._looks.pop(chosen).ending.close()

    def _begin(self, chosen: PictureFilter, now: float) -> _Look:
        ending = contextlib.ExitStack()
        follower = ending.enter_context(self._pictures.follow(chosen))
        look = self._looks[chosen] = _Look(follower, ending, now, waits_until=now + FIRST)
        return look
