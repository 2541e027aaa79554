"""Parser of server-sent events (HTML standard of WHATWG, 9.2). Pure: bytes in, events out."""

from __future__ import annotations

from typing import NamedTuple

MAX_EVENT = 8 * 1024**2  # bytes; the largest prediction is 1 MiB of msgpack


class ServerSentEvent(NamedTuple):
    """One event. The empty comment that the API sends as a heartbeat has the name `silence`."""

    name: str
    data: str
    id: str


class TooLarge(Exception):
    """An event has more than MAX_EVENT bytes."""

    def __init__(self) -> None:
        super().__init__(f"an event of more than {MAX_EVENT} bytes")


class EventParser:
    """Parses the events of one response. Only LF ends a line, because data may contain other line breaks."""

    def __init__(self) -> None:
        self._rest = bytearray()  # the start of an incomplete line
        self._fields: dict[str, str] = {}
        self._size = 0  # bytes of the lines of the current event

    def feed(self, content: bytes) -> list[ServerSentEvent]:
        """Return the events that this content completes. Raises: TooLarge."""
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
