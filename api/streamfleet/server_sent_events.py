"""Server-sent events, as the WHATWG's HTML standard has them. Pure: bytes in, events out."""

from __future__ import annotations

from typing import NamedTuple

MAX_EVENT = 8 * 1024**2  # bytes; the largest document of a fleet has 1 MiB as msgpack


class ServerSentEvent(NamedTuple):
    """One event. A comment without text, which the api sends in silence, is named `silence`."""

    name: str
    data: str
    id: str


class TooLarge(Exception):
    """An event of more than MAX_EVENT bytes."""

    def __init__(self) -> None:
        super().__init__(f"expected an event of at most {MAX_EVENT} bytes, got a longer one")


class EventParser:
    """The events in the bytes of one answer. Only LF ends a line: the data may hold any other break."""

    def __init__(self) -> None:
        self._rest = bytearray()  # of a line that has no end yet
        self._fields: dict[str, str] = {}
        self._size = 0  # bytes of the lines of this event

    def feed(self, content: bytes) -> list[ServerSentEvent]:
        """The events that end in this content. Raises: TooLarge."""
        self._rest += content
        *lines, rest = self._rest.split(b"\n")
        self._rest = bytearray(rest)
        found = [event for line in lines if (event := self._take(bytes(line))) is not None]
        if self._size + len(self._rest) > MAX_EVENT:
            raise TooLarge
        return found

    def _take(self, line: bytes) -> ServerSentEvent | None:
        if line == b":":
            return ServerSentEvent("silence", "", "")
        if line:
            self._size += len(line)
            name, _, value = line.decode("utf-8", "replace").partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields, self._size = self._fields, {}, 0
        if "data" not in fields:
            return None
        return ServerSentEvent(fields.get("event", "message"), fields["data"], fields.get("id", ""))
