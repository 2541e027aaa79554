"""The event streams of `/v2` and their decoders. Pure: `client` and `async_client` read the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from streamfleet.api_calls import query_of
from streamfleet.errors import NothingReceived, UnexpectedAnswer
from streamfleet.prediction import Prediction
from streamfleet.results import DeviceStat, Event, PipelineStat
from streamfleet.server_sent_events import EventParser, ServerSentEvent, TooLarge
from streamfleet_core.protocol.prediction import PredictionDocument

T = TypeVar("T")

HEARTBEAT_TIMEOUT = 30.0  # seconds; the API sends at least a comment every 5 s

# Decodes an event, given how many values are missing before it (None: unknown).
Read = Callable[[ServerSentEvent, "int | None"], T]


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """One stream: its path and its decoder."""

    what: str  # the plural of its values, for messages
    path: str
    read: Read[T]
    after: str | None = None  # the id of the event to continue after
    is_resumed: bool = False  # whether a new connection continues after the last event


class Following(Generic[T]):
    """The state of one stream across reconnects. `now` is in monotonic seconds."""

    def __init__(self, stream: Stream[T], timeout: float | None, now: float) -> None:
        self._stream = stream
        self._timeout = timeout
        self._received_at = now
        self._after = stream.after
        self._missing: int | None = 0
        self._parser = EventParser()
        self._connected = False
        self._chunks = 0  # of this connection

    @property
    def is_proven(self) -> bool:
        """Whether this connection delivered more than the first chunk, which each client gets on connect."""
        return self._chunks > 1

    @property
    def path(self) -> str:
        """The path and query of the stream."""
        return self._stream.path

    @property
    def read_timeout(self) -> float:
        """Seconds without data after which a connection is considered lost."""
        return HEARTBEAT_TIMEOUT if self._timeout is None else min(HEARTBEAT_TIMEOUT, self._timeout)

    def headers(self) -> dict[str, str]:
        """Return the request headers of the next connection."""
        return {"accept": "text/event-stream", **({"last-event-id": self._after} if self._after else {})}

    def opened(self) -> None:
        """Start a new connection. Values before it may be lost, unless the stream is resumed."""
        if self._connected and not (self._stream.is_resumed and self._after):
            self._missing = None
        self._connected = True
        self._parser = EventParser()
        self._chunks = 0

    def feed(self, content: bytes, now: float) -> list[T]:
        """Return the values in this content. Raises: UnexpectedAnswer, NothingReceived."""
        found: list[T] = []
        self._chunks += 1
        try:
            events = self._parser.feed(content)
        except TooLarge as exc:
            raise UnexpectedAnswer(str(exc)) from exc
        for event in events:
            if event.name == "gap":
                self._record_gap(event)
            elif event.name == "message":
                found.append(self._read(event))
        if found:
            self._received_at = now
        self.check(now)
        return found

    def check(self, now: float) -> None:
        """Check the timeout. Raises: NothingReceived."""
        if self._timeout is not None and now - self._received_at >= self._timeout:
            raise NothingReceived(self._stream.what, self._timeout)

    def _read(self, event: ServerSentEvent) -> T:
        try:
            value = self._stream.read(event, self._missing)
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as exc:
            raise UnexpectedAnswer(f"a stream without valid {self._stream.what}: {exc}") from exc
        self._missing = 0
        self._after = event.id or self._after
        return value

    def _record_gap(self, event: ServerSentEvent) -> None:
        count = msgspec.json.decode(event.data, type=_Gap).gap
        self._missing = None if count is None or self._missing is None else self._missing + count


@dataclass(frozen=True, slots=True)
class _Gap:
    gap: int | None


def predictions(
    pipelines: Iterable[str],
    *,
    devices: Iterable[str],
    selector: str | None,
    sources: Iterable[int],
    classes: Iterable[str],
    min_confidence: float | None,
    empty: bool,
) -> Stream[Prediction]:
    """Return the stream of predictions that match all given filters."""
    query = query_of(
        pipeline=list(pipelines),
        device=list(devices),
        selector=selector,
        source=list(sources),
        class_=list(classes),
        min_confidence=min_confidence,
        empty=empty or None,
    )
    return Stream("predictions", f"/v2/predictions{query}", read_prediction)


def read_prediction(event: ServerSentEvent, missing: int | None) -> Prediction:
    """Decode a prediction. Raises: ValueError, KeyError, msgspec.ValidationError."""
    document = msgspec.json.decode(event.data, type=PredictionDocument)
    generation, incarnation, sequence = map(int, event.id.split("-"))
    pipeline_id = document["inference_metadata"]["pipeline_id"]
    return Prediction.of(document, pipeline_id, (generation, incarnation, sequence), missing=missing)


def statuses(
    pipelines: Iterable[str], *, devices: Iterable[str], selector: str | None
) -> Stream[PipelineStat | DeviceStat]:
    """Return the stream of statuses: first the latest of each subject, then each new one."""
    query = query_of(pipeline=list(pipelines), device=list(devices), selector=selector)
    return Stream("statuses", f"/v2/status{query}", _read_status)


def _read_status(event: ServerSentEvent, _missing: int | None) -> PipelineStat | DeviceStat:
    plain: Any = msgspec.json.decode(event.data)
    of: Any = PipelineStat if "pipeline_id" in plain else DeviceStat
    found: PipelineStat | DeviceStat = msgspec.convert(plain, of)
    return found


def events(after: str | None) -> Stream[Event]:
    """Return the stream of events, from now on or after this event."""
    return Stream("events", "/v2/events", _read_event, after=after, is_resumed=True)


def _read_event(event: ServerSentEvent, _missing: int | None) -> Event:
    return msgspec.json.decode(event.data, type=Event)
