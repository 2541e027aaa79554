"""The parser of server-sent events."""

from __future__ import annotations

import pytest

from streamfleet.server_sent_events import MAX_EVENT, EventParser, ServerSentEvent, TooLarge

EVENTS = b': events follow\n\nid: 7-1\ndata: {"a": 1}\n\n:\n\nevent: gap\ndata: {"gap":null}\n\n'
PARSED = [
    ServerSentEvent("message", '{"a": 1}', "7-1"),
    ServerSentEvent("silence", "", ""),
    ServerSentEvent("gap", '{"gap":null}', ""),
]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_the_same_in_pieces_of_any_size(size: int) -> None:
    parser = EventParser()

    pieces = [EVENTS[start : start + size] for start in range(0, len(EVENTS), size)]

    assert [event for piece in pieces for event in parser.feed(piece)] == PARSED


def test_only_lf_ends_a_line() -> None:
    (event,) = EventParser().feed("data: a\u2028b\x85c\n\n".encode())

    assert event.data == "a\u2028b\x85c"


def test_a_field_without_data_is_not_an_event() -> None:
    assert EventParser().feed(b"id: 1\n\n") == []


def test_an_event_without_end_is_refused() -> None:
    parser = EventParser()
    parser.feed(b"data: " + b"x" * (MAX_EVENT - 6))

    with pytest.raises(TooLarge):
        parser.feed(b"x")
