"""Replay of predictions: the request, which is a subscription, and the answer of a device. Pure.

    subscription  v1/replay/<pipeline>@<key>-<count>-<token>/    numbers are hexadecimal, a key has three
    first message flag `HOLDERS`, of the relay: the devices that have or had the pipeline, and may answer.
                  Of a device, on its own socket: that it is the only one
    messages      the kept predictions from that key on, in order, with their own headers and bodies
    last message  flag `ANSWER`, of each device: what was sent, what is lost and why

The topic names the first key that the subscriber lacks, and how many it lacks, 0 if it does not know. It is
a subscription, so that the relay grants it by
the rules for the pipeline, forwards it to every device, and repeats it to a device that returns. A device
sends one part for each request, and the subscriber asks for the next part with another topic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import ID_PATTERN, MAX_REPLAY_SPANS, MAX_TOPIC, whole
from streamfleet_core.protocol.values import Id, Natural

T = TypeVar("T")
Key = tuple[int, int, int]  # generation, incarnation, sequence number

# Why a prediction is not kept:
#   age, size   the limits of the device
#   unwritten   it never reached the store: the publisher or the disk was too slow, or the publisher died
#   restart     it was kept in memory, and the publisher started again
Cause = Literal["age", "size", "unwritten", "restart"]

MAX_CUTS = 16  # of an answer; older ones are forgotten

_BEGIN = b"v1/replay/"
_REQUEST = re.compile(
    whole(
        rf"v1/replay/({ID_PATTERN})@([0-9a-f]{{1,16}})-([0-9a-f]{{1,8}})-([0-9a-f]{{1,12}})"
        r"-([0-9a-f]{1,2})-([0-9a-f]{8})/"
    )
)


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """The request for the predictions of one pipeline, from a key on."""

    pipeline_id: str
    start: Key  # the first one
    token: str  # 8 hexadecimal digits, different for each request
    count: int = 0  # how many, at most 255; 0: all that follow

    @property
    def topic(self) -> bytes:
        """The topic to subscribe to, at most `MAX_TOPIC` bytes."""
        generation, incarnation, sequence = self.start
        name = f"{self.pipeline_id}@{generation:x}-{incarnation:x}-{sequence:x}-{self.count:x}-{self.token}"
        return b"%s%s/" % (_BEGIN, name.encode("ascii"))

    @classmethod
    def parse(cls, topic: bytes) -> ReplayRequest | None:
        """Decode a topic. None: it is another one."""
        if not topic.startswith(_BEGIN) or len(topic) > MAX_TOPIC:
            return None
        found = _REQUEST.match(topic.decode("ascii", "replace"))
        if found is None:
            return None
        generation, incarnation, sequence, count = (int(text, 16) for text in found.group(2, 3, 4, 5))
        return cls(found[1], (generation, incarnation, sequence), found[6], count)


class Span(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Successive predictions of one run, both ends included."""

    generation: Natural
    incarnation: Natural
    first: Natural
    last: Natural

    @property
    def low(self) -> Key:
        """The first key."""
        return (self.generation, self.incarnation, self.first)

    @property
    def high(self) -> Key:
        """The last key."""
        return (self.generation, self.incarnation, self.last)

    @property
    def count(self) -> int:
        """The number of predictions."""
        return self.last - self.first + 1

    def within(self, start: Key, end: Key | None) -> Span | None:
        """The part from `start` to `end`, both included; None if it is empty."""
        run = (self.generation, self.incarnation)
        if run < start[:2] or (end is not None and run > end[:2]):
            return None
        first = max(self.first, start[2]) if run == start[:2] else self.first
        last = min(self.last, end[2]) if end is not None and run == end[:2] else self.last
        return Span(*run, first, last) if first <= last else None


class Loss(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Predictions that a device sent and does not have, and why."""

    span: Span
    cause: Cause


class ReplayAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a device has of a pipeline, from the start of a request up to `until`.

    Both lists are sorted. Together they are all predictions that the device knows to have existed there.
    """

    device: Id
    # The first key that the device knows. Before it there may be others, which it has not counted.
    known_from: tuple[Natural, Natural, Natural] | None
    until: tuple[
        Natural, Natural, Natural
    ]  # the end of this part; or the last key, if all are before the start
    done: bool  # the device has nothing after `until`
    sent: Annotated[tuple[Span, ...], Meta(max_length=MAX_REPLAY_SPANS)] = ()
    lost: Annotated[tuple[Loss, ...], Meta(max_length=MAX_REPLAY_SPANS)] = ()
    # The last known keys of runs in which the publisher died: further ones may have been made.
    cut_off: Annotated[tuple[tuple[Natural, Natural, Natural], ...], Meta(max_length=MAX_CUTS)] = ()

    def encode(self) -> bytes:
        """Encode as the body of a message."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, body: bytes) -> ReplayAnswer:
        """Decode a body. Raises: BadData."""
        return _decoded(body, cls, "an answer to a replay")


class Holder(msgspec.Struct, frozen=True, array_like=True):
    """A device has or had a pipeline in these generations, both included. It need not have sent anything."""

    device: Id
    first: Natural
    last: Natural


MAX_GENERATION = 2**63 - 1


class ReplayHolders(msgspec.Struct, frozen=True, array_like=True):
    """The devices that may answer a request, as the broker knows them."""

    holders: Annotated[tuple[Holder, ...], Meta(max_length=MAX_REPLAY_SPANS)]

    def encode(self) -> bytes:
        """Encode as the body of a message."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, body: bytes) -> ReplayHolders:
        """Decode a body. Raises: BadData."""
        return _decoded(body, cls, "the holders of a pipeline")


def _decoded(body: bytes, of: type[T], what: str) -> T:
    try:
        return msgspec.msgpack.decode(body, type=of)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise BadData(what, str(exc)) from exc


def after(key: Key) -> Key:
    """The next key of the same run."""
    return (key[0], key[1], key[2] + 1)
