"""Streams of complete predictions: each client has a subscription of its own, which fetches what is missing.

The queue of a client is filled as fast as it reads, and nothing of it is dropped: the devices keep it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import zmq
import zmq.asyncio

from streamfleet.complete.receiver import Received, Receiver
from streamfleet.complete.values import Checkpoint, Gap
from streamfleet.errors import BadSetting
from streamfleet_api.broker_client import Endpoints
from streamfleet_api.feeds.filters import Parameters, PredictionFilter, WrongParameter
from streamfleet_api.feeds.predictions import topics_of
from streamfleet_api.feeds.send_queue import Message, SendQueue
from streamfleet_api.feeds.subscribers import Subscriber, SubscriberRegistry, TooManySubscribers
from streamfleet_api.feeds.zmq_subscription import sub_socket
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.runtime.curve import CurveKeys

logger = logging.getLogger(__name__)

MAX_STREAMS = 16  # each has a subscription of its own, and predictions that wait for earlier ones
MAX_PIPELINES = 16  # of one stream: its position in all of them is the id of each event
MAX_TEXT = 4096  # characters of a checkpoint of so many
PATIENCE = 10.0  # seconds of silence after which a device is away
ROOM = 8 * 1024**2  # bytes of all predictions of a stream that wait for earlier ones
_QUEUE = 64  # messages in the queue of a client, until it has read them
_BATCH = 64  # messages between two yields to the event loop


@dataclass(frozen=True, slots=True)
class Since:
    """Where a stream begins."""

    checkpoint: Checkpoint
    oldest: bool  # whether a pipeline that the checkpoint does not have begins with the oldest kept one

    @classmethod
    def parse(
        cls, parameters: Parameters, last_event_id: str | None, chosen: PredictionFilter
    ) -> Since | None:
        """What a request asks for; None: live predictions. Raises: WrongParameter.

        `last_event_id`: of a browser that reconnects: it is more recent than the parameter in its address.
        """
        texts = [value for name, value in parameters if name == "since"]
        if not texts:
            return None
        if len(texts) > 1:
            raise WrongParameter("since", "one value", ", ".join(texts))
        if not 1 <= len(chosen.pipelines) <= MAX_PIPELINES:
            expected = f"1 to {MAX_PIPELINES} pipelines beside since"
            raise WrongParameter("pipeline", expected, str(len(chosen.pipelines)))
        if chosen.selector.needs:
            raise WrongParameter("selector", "no labels beside since: name the pipelines", "labels")
        text = last_event_id or texts[0]
        if text in ("now", "oldest"):
            return cls(Checkpoint(), text == "oldest")
        try:
            checkpoint = Checkpoint.decode(text[: MAX_TEXT + 1]) if len(text) <= MAX_TEXT else None
        except BadSetting:
            checkpoint = None
        if checkpoint is None:
            raise WrongParameter("since", "now, oldest, or the id of an event of such a stream", text)
        known = {name: each for name, each in checkpoint.positions.items() if name in chosen.pipelines}
        return cls(Checkpoint(known), texts[0] == "oldest")


class CompleteStreams:
    """The streams of all clients."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoints: Endpoints,
        keys: CurveKeys | None,
        subscribers: SubscriberRegistry,
    ) -> None:
        self._context = context
        self._endpoints = endpoints
        self._keys = keys
        self._subscribers = subscribers
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def subscribe(self, chosen: PredictionFilter, since: Since) -> Iterator[Subscriber]:
        """A subscriber of what was chosen, in complete order. Raises: StreamRefused."""
        if len(self._tasks) >= MAX_STREAMS:
            raise TooManySubscribers(MAX_STREAMS, "streams with since")
        with self._subscribers.admit(SendQueue()) as subscriber:
            task = asyncio.create_task(self._run(subscriber, chosen, since), name="complete stream")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            try:
                yield subscriber
            finally:
                task.cancel()

    async def _run(self, subscriber: Subscriber, chosen: PredictionFilter, since: Since) -> None:
        try:
            with sub_socket(self._context, self._endpoints, self._keys) as socket:
                for topic in topics_of(chosen):
                    socket.subscribe(topic)
                await self._feed(subscriber, chosen, since, socket)
        except Exception:
            logger.exception("a stream of complete predictions")
            subscriber.end()

    async def _feed(
        self, subscriber: Subscriber, chosen: PredictionFilter, since: Since, socket: zmq.asyncio.Socket
    ) -> None:
        receiver = Receiver(
            zmq.Socket.shadow(socket),
            chosen.pipelines,
            since.checkpoint,
            oldest=since.oldest,
            patience=PATIENCE,
            room=ROOM // len(chosen.pipelines),
        )
        for count in itertools.count():
            await subscriber.until_shorter_than(_QUEUE)
            found = receiver.take(time.monotonic())
            if found is None:
                wait = receiver.wait_ms(time.monotonic())
                if wait and await socket.poll(wait):
                    receiver.read(time.monotonic())
                continue
            message = _message(found, receiver.checkpoint, chosen)
            if message is not None:
                subscriber.push(message)
            if count % _BATCH == 0:
                await asyncio.sleep(0)


def _message(found: Received | Gap, checkpoint: Checkpoint, chosen: PredictionFilter) -> Message | None:
    """The event of a value; None: the filter leaves it out, or no one can read it."""
    if isinstance(found, Gap):
        told = {"gap": found.count, **{name: getattr(found, name) for name in _OF_A_GAP}}
        return Message(kind="gap", data=msgspec.json.encode(told), id=checkpoint.encode())
    try:
        document = found.document()
    except BadData as exc:
        logger.warning("a prediction of %s: %s", found.pipeline_id, exc)
        return None
    picked = chosen.pick({**document})
    if picked is None:
        return None
    return Message(kind="prediction", data=msgspec.json.encode(picked), id=checkpoint.encode())


_OF_A_GAP = ("pipeline_id", "cause", "device", "generation", "incarnation", "first")
