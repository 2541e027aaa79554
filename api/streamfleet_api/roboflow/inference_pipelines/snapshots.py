"""The newest preview of each source whose results are consumed with images in them.

A camera renders previews only while it has a subscriber. So a subscription starts with the first request and
ends after a while without requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from streamfleet_api.feeds.filters import PreviewFilter
from streamfleet_api.feeds.previews import Previews
from streamfleet_api.feeds.subscribers import StreamRefused, Subscriber

FIRST = 3.0  # seconds that the first preview may take, over all requests
IDLE = 5.0  # seconds without a request after which a subscription ends
_POLL = 0.2  # seconds: of two waiting requests only one is woken at a time


@dataclass(slots=True, kw_only=True)
class _Subscription:
    subscriber: Subscriber
    ending: contextlib.ExitStack
    asked_at: float
    jpeg: bytes | None = None
    waits_until: float = field(default=0.0)  # for the first preview; later requests do not wait

    def newest(self) -> bytes | None:
        for message in self.subscriber.queue.take():
            if message.kind == "preview":
                self.jpeg = message.data
        return self.jpeg


class Snapshots:
    """The preview subscriptions of consumers. `now` is in monotonic seconds. One event loop uses it."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews
        self._subscriptions: dict[PreviewFilter, _Subscription] = {}

    async def newest(self, pipeline_id: str, source: int) -> bytes | None:
        """The newest JPEG of a source; None without one, or when the stream is refused."""
        chosen = PreviewFilter(pipeline_id, source)
        now = time.monotonic()
        try:
            subscription = self._subscriptions.get(chosen) or self._begin(chosen, now)
        except StreamRefused:
            return None
        subscription.asked_at = now
        while subscription.newest() is None and time.monotonic() < subscription.waits_until:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(subscription.subscriber.wait(), _POLL)
        return subscription.jpeg

    def close_idle(self, now: float) -> None:
        """End subscriptions without recent requests."""
        for chosen in [
            each for each, subscription in self._subscriptions.items() if now - subscription.asked_at > IDLE
        ]:
            self._subscriptions.pop(chosen).ending.close()

    def close(self, pipeline_id: str) -> None:
        """End the subscriptions to a pipeline."""
        for chosen in [each for each in self._subscriptions if each.pipeline_id == pipeline_id]:
            self._subscriptions.pop(chosen).ending.close()

    def _begin(self, chosen: PreviewFilter, now: float) -> _Subscription:
        ending = contextlib.ExitStack()
        subscriber = ending.enter_context(self._previews.subscribe(chosen))
        subscription = self._subscriptions[chosen] = _Subscription(
            subscriber=subscriber, ending=ending, asked_at=now, waits_until=now + FIRST
        )
        return subscription
