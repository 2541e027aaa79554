"""What waits for subscribers: order is kept, gaps are told, and everything is bounded."""

from __future__ import annotations

import msgpack
import pytest

from streamfleet_api.feeds.events import Ring
from streamfleet_api.feeds.filters import Mark, StatusFilter
from streamfleet_api.feeds.predictions import Last, Lasts
from streamfleet_api.feeds.send_queue import Message, SendQueue, gap
from streamfleet_api.feeds.statuses import Board
from streamfleet_api.feeds.zmq_subscription import FORGET, Order
from streamfleet_api.web.auth import MAX_TICKETS, TICKET_TTL, Tickets
from streamfleet_api.web.json_codec import render
from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_STAT_BODY
from streamfleet_core.protocol.requests import Events, FleetEvent
from streamfleet_core.protocol.values import to_plain
from tests.api.roboflow.test_stream_management import told

# order ----------------------------------------------------------------------------------------------------


def test_only_a_larger_key_is_accepted_and_what_is_missing_is_counted() -> None:
    order = Order()

    keys = [(3, 0, 5), (3, 0, 6), (3, 0, 6), (3, 0, 4), (3, 0, 9), (2, 9, 99), (3, 1, 0), (4, 0, 7)]
    found = [order.accept(key, 0.0) for key in keys]

    assert found == [0, 0, None, None, 2, None, 0, 0]


def test_a_subject_that_was_silent_for_long_may_begin_anew() -> None:
    order = Order()
    order.accept((9, 0, 0), 0.0)

    assert order.accept((1, 0, 0), FORGET) is None
    assert order.accept((1, 0, 0), FORGET + 0.1) == 0


# messages and queues ------------------------------------------------------------------------------------


def prediction(number: int, size: int = 1) -> Message:
    """A message of so many bytes."""
    return Message(kind="prediction", data=b"%d" % number * size, id=f"3-0-{number}")


def test_a_message_is_the_same_text_over_every_transport() -> None:
    message = Message(kind="prediction", data=b'{"a":"\xc3\xa9"}', id="3-0-1")

    assert message.sse == 'id: 3-0-1\ndata: {"a":"é"}\n\n'.encode()
    assert message.text == '{"type":"prediction","id":"3-0-1","data":{"a":"é"}}'
    assert message.sse is message.sse
    assert message.text is message.text


def test_a_gap_has_a_name_of_its_own() -> None:
    assert gap(2, "door").sse == b'event: gap\ndata: {"gap":2,"pipeline_id":"door"}\n\n'
    assert gap(2).text == '{"type":"gap","data":{"gap":2}}'
    assert gap(None).text == '{"type":"gap","data":{"gap":null}}'


def test_a_full_queue_drops_the_oldest_and_says_how_many() -> None:
    queue = SendQueue(max_messages=3, max_bytes=100)

    for number in range(5):
        queue.push(prediction(number))
    first = queue.take()
    for number in (5, 6):
        queue.push(prediction(number, 60))

    assert [message.text for message in first[:1]] == [gap(2).text]
    assert [message.id for message in first[1:]] == ["3-0-2", "3-0-3", "3-0-4"]
    assert [message.data for message in queue.take()] == [b'{"gap":1}', b"6" * 60]
    assert not queue


def test_a_gap_that_is_dropped_counts_for_what_it_stood_for() -> None:
    queue = SendQueue(max_messages=2)

    queue.push(gap(7))
    for number in range(2):
        queue.push(prediction(number))

    assert queue.take()[0].data == b'{"gap":7}'


def test_a_queue_holds_at_least_one_message_however_large() -> None:
    queue = SendQueue(max_bytes=10)

    queue.push(prediction(1, 100))

    assert [message.id for message in queue.take()] == ["3-0-1"]


def test_of_one_subject_the_newest_waits_and_nothing_is_lost() -> None:
    queue = SendQueue(max_messages=2)

    for number, subject in enumerate(["a", "b", "a", "b", "a"]):
        queue.push(Message(kind="status", data=b"%d" % number, subject=subject))

    assert [message.data for message in queue.take()] == [b"3", b"4"]


def test_a_piece_is_small_enough_to_be_written_in_time() -> None:
    queue = SendQueue()

    for number in range(4):
        queue.push(prediction(number, 200_000))

    assert [len(queue.take()) for _ in range(3)] == [2, 2, 0]


# the board of statuses ------------------------------------------------------------------------------------


def stat_frames(seq: int, throughput: float, pipeline_id: str = "door") -> list[bytes]:
    """A status as it comes from the relay."""
    body = msgpack.packb(to_plain(told(pipeline_id, throughput)))
    return [
        f"v1/stat/{pipeline_id}/".encode(),
        DataHeader(kind=Kind.STAT, gen=3, inc=0, seq=seq).pack(),
        body,
    ]


def test_the_board_keeps_the_last_status_with_its_age() -> None:
    board = Board()

    subject = board.receive(stat_frames(1, 10.0), 100.0)
    late = board.receive(stat_frames(0, 99.0), 101.0)

    seen = board.pipeline("door", 103.5)
    assert seen is not None
    assert (seen.stat.fps, seen.age) == (10.0, 3.5)
    assert board.pipeline("gate", 103.5) is None
    assert subject == "door"
    news = board.news(subject)
    assert news is not None
    assert news[1].data == render(to_plain(told("door", 10.0)))
    assert late is None


def test_the_board_is_bounded_and_forgets_the_most_silent() -> None:
    board = Board(limit=2)

    for seq, name in enumerate(["a", "b", "a", "c"]):
        board.receive(stat_frames(seq, 1.0, name), 0.0)

    assert [board.pipeline(name, 0.0) is not None for name in "abc"] == [True, False, True]


def test_the_board_forgets_pipelines_that_are_no_more() -> None:
    board = Board()
    for name in "ab":
        board.receive(stat_frames(0, 1.0, name), 0.0)

    board.retain({"b"})

    (left,) = board.latest(StatusFilter(), lambda _: {})
    assert left.subject == "b"


def broken(**changes: object) -> bytes:
    """A status with changes that no answer could show."""
    content: bytes = msgpack.packb({**to_plain(told("door", 1.0)), **changes})
    return content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgpack.packb([1]),
        msgpack.packb({"pipeline_id": 7}),
        broken(fps=float("nan")),
        broken(report={"video_source_status_updates": [{"context": b"bytes"}]}),
        broken(report={"video_source_status_updates": [{"payload": {"a": [1]}}]}),
        broken(report={"inference_throughput": float("inf")}),
        broken(report={"latency_reports": [{"e2e_latency": float("nan")}]}),
        broken(report={"sources_metadata": [{}] * 17}),
        broken(dropped={str(number): 1 for number in range(65)}),
        broken(at=float("-inf")),
        broken(reason="x" * MAX_STAT_BODY),
        b"\x91" * 1000 + b"\x00",
        b"\x81\xa6report" + b"\x91" * 900 + b"\x00",
    ],
)
def test_a_status_that_is_none_is_told_apart(body: bytes) -> None:
    frames = [b"v1/stat/door/", DataHeader(kind=Kind.STAT, gen=3, inc=0, seq=1).pack(), body]
    refused = list[BadData]()
    board = Board(on_unreadable=refused.append)

    try:
        board.receive(frames, 0.0)
    except BadData as exc:
        refused.append(exc)

    assert board.pipeline("door", 0.0) is None
    assert board.latest(StatusFilter(), lambda _: {}) == []
    assert refused
    board.receive(stat_frames(2, 10.0), 1.0)
    assert board.pipeline("door", 1.0) is not None


# the last predictions -------------------------------------------------------------------------------------


def test_the_last_prediction_of_each_source_is_kept() -> None:
    lasts = Lasts()

    for seq, source in enumerate([0, 1, 1, 0]):
        lasts.keep("door", source, Last((3, 0, seq), b"%d" % seq))

    assert lasts.find("door", 1) == Last((3, 0, 2), b"2")
    assert lasts.find("door", None) == Last((3, 0, 3), b"3")
    assert lasts.find("door", 2) is None
    assert lasts.find("gate", None) is None


def test_the_last_predictions_take_no_more_than_their_room() -> None:
    lasts = Lasts(limit=10)

    for seq, name in enumerate(["a", "b", "a", "c", "c"]):
        lasts.keep(name, 0, Last((3, 0, seq), b"x" * 4))

    assert [lasts.find(name, 0) is not None for name in "abc"] == [True, False, True]


def test_pipelines_that_are_no_more_have_no_last_prediction() -> None:
    lasts = Lasts()
    for name in "ab":
        lasts.keep(name, 0, Last((3, 0, 0), b"x"))

    lasts.retain({"b"})

    assert [lasts.find(name, 0) is not None for name in "ab"] == [False, True]


# events ---------------------------------------------------------------------------------------------------


def events(epoch: int, *numbers: int, lost: bool = False) -> Events:
    """What the broker answers."""
    listed = [
        FleetEvent(
            n=n, at=1.5, subject="pipeline", id="door", state="running", previous="starting", device="edge-1"
        )
        for n in numbers
    ]
    return Events(epoch, tuple(listed), lost)


def ids(messages: list[Message]) -> list[str]:
    """The id of each event, of a gap what it says."""
    return [message.id or message.data.decode() for message in messages]


def test_events_are_told_once_and_in_order() -> None:
    ring = Ring()

    first = ring.add(events(7, 1, 2))
    again = ring.add(events(7, 2, 3))

    assert ids(first) == ["7-1", "7-2"]
    assert ids(again) == ["7-3"]
    assert ring.last == Mark(7, 3)
    assert [event["n"] for event in ring.recent(2)] == [2, 3]
    assert ring.recent(1)[0]["epoch"] == 7


def test_what_the_broker_has_forgotten_is_told_as_a_gap() -> None:
    ring = Ring()
    ring.add(events(7, 1))

    assert ids(ring.add(events(7, 5, lost=True))) == ['{"gap":3}', "7-5"]
    assert ids(ring.add(events(8, 1, lost=True))) == ['{"gap":null}', "8-1"]
    assert ids(ring.after(Mark(7, 1))) == ['{"gap":3}', "7-5", '{"gap":null}', "8-1"]


def test_a_new_epoch_is_a_gap_even_before_anything_happens_in_it() -> None:
    ring = Ring()
    ring.add(events(7, 1))

    assert ids(ring.add(events(8, lost=True))) == ['{"gap":null}']
    assert ids(ring.add(events(8, 1))) == ["8-1"]
    assert ids(ring.after(Mark(7, 1))) == ['{"gap":null}', "8-1"]


def test_the_first_that_a_ring_hears_of_is_no_gap() -> None:
    assert ids(Ring().add(events(7, 40, lost=True))) == ["7-40"]


def test_a_follower_goes_on_where_it_was() -> None:
    ring = Ring(limit=3)
    ring.add(events(7, 1, 2, 3, 4))

    assert ids(ring.after(Mark(7, 3))) == ["7-4"]
    assert ids(ring.after(Mark(7, 4))) == []
    assert ids(ring.after(Mark(7, 1))) == ["7-2", "7-3", "7-4"]
    assert ids(ring.after(Mark(7, 0))) == ['{"gap":1}', "7-2", "7-3", "7-4"]
    assert ids(ring.after(Mark(5, 9))) == ['{"gap":null}', "7-2", "7-3", "7-4"]
    assert ids(ring.after(Mark(0, 0))) == ["7-2", "7-3", "7-4"]
    assert ids(ring.after(Mark(9, 1))) == []


def test_a_broker_that_was_made_anew_is_heard() -> None:
    ring = Ring()
    ring.add(events(7, 1, 2))

    assert ids(ring.add(events(1, 1))) == ["1-1"]
    assert ring.last == Mark(1, 1)


# tickets --------------------------------------------------------------------------------------------------


def test_a_ticket_is_good_once_and_soon() -> None:
    tickets = Tickets()
    used, late = tickets.issue(0.0), tickets.issue(0.0)

    assert tickets.redeem(used, TICKET_TTL - 0.1)
    assert not tickets.redeem(used, TICKET_TTL - 0.1)
    assert not tickets.redeem(late, TICKET_TTL)
    assert not tickets.redeem("none", 0.0)


def test_tickets_are_bounded_and_the_oldest_go() -> None:
    tickets = Tickets()
    issued = [tickets.issue(0.0) for _ in range(MAX_TICKETS + 1)]

    assert not tickets.redeem(issued[0], 1.0)
    assert tickets.redeem(issued[1], 1.0)
