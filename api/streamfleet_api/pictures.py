"""The pictures of the fleet, asked for only while somebody looks: a camera makes none otherwise.

The newest wins: nobody gets a picture late, whoever is slow gets fewer.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import zmq.asyncio

from streamfleet_api.audience import Audience, Follower, Hub, TooManyFollowers
from streamfleet_api.background import Background
from streamfleet_api.backlog import Backlog, Message
from streamfleet_api.filters import PictureFilter
from streamfleet_api.link import CurveKeys
from streamfleet_api.subscriber import Order, name_of, received, subscriber
from streamfleet_api.topics import Topics
from streamfleet_broker.protocol.data import Kind, pipeline_topic, split
from streamfleet_broker.protocol.errors import BadData

logger = logging.getLogger(__name__)

MAX_LOOKING = 64  # clients: each may take some megabits a second
KEEP_ON = 3.0  # seconds after the last one left, so that whoever comes back finds the camera at work
FRESH = 3.0  # seconds for which a picture is shown to who comes later
_WAITING = 4  # pictures in the socket


class Pictures:
    """One subscription to the relay of pictures, as narrow as what is looked at."""

    def __init__(
        self, context: zmq.asyncio.Context, endpoint: str, keys: CurveKeys | None, audience: Audience
    ) -> None:
        self._context = context
        self._endpoint = endpoint
        self._keys = keys
        self._hub: Hub[PictureFilter] = Hub(audience)
        self._topics = Topics(changed=self._forget, keep_on=KEEP_ON)
        self._orders: dict[PictureFilter, Order] = {}
        self._newest: dict[PictureFilter, tuple[Message, float]] = {}  # and when it came
        self._work = Background("pictures", self._run)

    async def start(self) -> None:
        """Connect; the relay need not be there yet."""
        self._work.start()

    async def close(self) -> None:
        """Disconnect."""
        await self._work.close()

    @contextlib.contextmanager
    def follow(self, chosen: PictureFilter) -> Iterator[Follower]:
        """A follower of one source's pictures, the newest that is there first. Raises: TooManyFollowers."""
        if self._topics.followers >= MAX_LOOKING:
            raise TooManyFollowers(MAX_LOOKING, "streams of pictures")
        topic = pipeline_topic(Kind.IMG, chosen.pipeline_id)
        with self._hub.follow(chosen, Backlog()) as follower, self._topics.followed(topic):
            picture, came = self._newest.get(chosen, (None, 0.0))
            if picture is not None and time.monotonic() - came < FRESH:
                follower.push(picture)
            yield follower

    def _forget(self, topic: bytes) -> None:
        """Somebody looks for the first time, or the last one has gone."""
        for chosen in [each for each in self._orders if pipeline_topic(Kind.IMG, each.pipeline_id) == topic]:
            del self._orders[chosen]
            self._newest.pop(chosen, None)

    async def _run(self) -> None:
        socket = subscriber(self._context, self._endpoint, self._keys, waiting=_WAITING)
        with socket, self._topics.served_by(socket):
            async for frames in received(socket):
                try:
                    self._receive(frames, time.monotonic())
                except BadData as exc:
                    logger.warning("relay: dropped a picture: %s", exc)

    def _receive(self, frames: list[bytes], now: float) -> None:
        pipeline_id, header, jpeg = split(frames)
        if frames[0] not in self._topics:
            return  # on its way when the last one left
        chosen = PictureFilter(pipeline_id, header.source)
        if self._orders.setdefault(chosen, Order()).accept(header.key, now) is None:
            return
        picture = Message("picture", jpeg, name_of(header.key), subject="picture")
        self._newest[chosen] = (picture, now)
        for follower in self._hub.groups.get(chosen, ()):
            follower.push(picture)
