"""Messages, encoded once for all subscribers, and the queue of a subscriber."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

MAX_MESSAGES = 256  # per queue
MAX_BYTES = 4 * 1024**2  # per queue; the bytes themselves are shared by all queues
_BATCH = 64  # messages taken at once
_BATCH_BYTES = 262_144  # bytes taken at once; they must be written before the subscriber counts as stuck

MessageKind = Literal["prediction", "status", "event", "preview", "gap", "silence"]
_NAMED = frozenset({"gap", "silence"})  # kinds that have an event name over SSE: they are notes, not data


@dataclass(frozen=True, eq=False, kw_only=True)
class Message:
    """One message, encoded for each transport on first use."""

    kind: MessageKind
    data: bytes  # JSON; of a preview JPEG
    id: str = ""  # "" if a client cannot resume from it
    subject: str = ""  # a later message with the same subject replaces this one in the queue; "" never
    stands_for: int = 1  # number of messages that are lost with this one

    @cached_property
    def sse(self) -> bytes:
        """As a server-sent event."""
        event = f"event: {self.kind}\n" if self.kind in _NAMED else ""
        number = f"id: {self.id}\n" if self.id else ""
        return b"%s%sdata: %s\n\n" % (event.encode(), number.encode(), self.data)

    @cached_property
    def text(self) -> str:
        """As the text of one WebSocket message."""
        number = f'"id":{json.dumps(self.id)},' if self.id else ""
        return f'{{"type":"{self.kind}",{number}"data":{self.data.decode()}}}'


def gap(missing: int | None, subject: str = "") -> Message:
    """A note that messages are missing here; None if their number is unknown."""
    count = b"null" if missing is None else b"%d" % missing
    about = b',"pipeline_id":"%s"' % subject.encode() if subject else b""
    return Message(kind="gap", data=b'{"gap":%s%s}' % (count, about), stands_for=missing or 1)


class SendQueue:
    """The queue of one subscriber. When it is full, the oldest messages are dropped and counted."""

    def __init__(self, *, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: OrderedDict[str | int, Message] = OrderedDict()
        self._numbers = itertools.count()
        self._bytes = 0
        self._lost = 0

    def push(self, message: Message) -> None:
        """Add a message."""
        key = message.subject or next(self._numbers)
        earlier = self._messages.pop(key, None)
        if earlier is not None:
            self._bytes -= len(earlier.data)
        self._messages[key] = message
        self._bytes += len(message.data)
        while len(self._messages) > 1 and (
            len(self._messages) > self._max_messages or self._bytes > self._max_bytes
        ):
            self._lost += self._pop().stands_for

    def take(self) -> list[Message]:
        """Take the next messages, after a note of those that were dropped."""
        taken = [gap(self._lost)] if self._lost else []
        self._lost = 0
        size = 0
        while self._messages and len(taken) < _BATCH and size < _BATCH_BYTES:
            taken.append(self._pop())
            size += len(taken[-1].data)
        return taken

    def __len__(self) -> int:
        return len(self._messages)

    def _pop(self) -> Message:
        _, message = self._messages.popitem(last=False)
        self._bytes -= len(message.data)
        return message
