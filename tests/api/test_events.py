"""Predictions over SSE and the board of statuses: order is kept, gaps are told, nobody waits for the slow."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import httpx
import msgpack
import pytest

from streamfleet_api.events import Backlog
from streamfleet_api.statuses import Board
from streamfleet_api.subscriber import FORGET, Order
from streamfleet_broker.protocol.data import DataHeader, Kind
from streamfleet_broker.protocol.errors import BadData
from streamfleet_broker.protocol.values import to_plain
from tests.api.conftest import Api
from tests.api.peer import Peer, pipeline
from tests.api.test_original import told

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


def stat_frames(seq: int, throughput: float, pipeline_id: str = "door") -> list[bytes]:
    """A status as it comes from the relay."""
    body = msgpack.packb(to_plain(told(pipeline_id, throughput)))
    return [f"v1/stat/{pipeline_id}/".encode(), DataHeader(Kind.STAT, 3, 0, seq).pack(), body]


def test_the_board_keeps_the_last_status_with_its_age() -> None:
    board = Board()

    board.receive(stat_frames(1, 10.0), 100.0)
    board.receive(stat_frames(0, 99.0), 101.0)

    seen = board.pipeline("door", 103.5)
    assert seen is not None
    assert (seen.stat.fps, seen.age) == (10.0, 3.5)
    assert board.pipeline("gate", 103.5) is None


def test_the_board_is_bounded_and_forgets_the_most_silent() -> None:
    board = Board(limit=2)

    for seq, name in enumerate(["a", "b", "a", "c"]):
        board.receive(stat_frames(seq, 1.0, name), 0.0)

    assert [board.pipeline(name, 0.0) is not None for name in "abc"] == [True, False, True]


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
        broken(report={"a": b"bytes"}),
        broken(report={"a": float("inf")}),
        b"\x91" * 1000 + b"\x00",
        b"\x81\xa6report" + b"\x91" * 900 + b"\x00",
    ],
)
def test_a_status_that_is_none_is_told_apart(body: bytes) -> None:
    frames = [b"v1/stat/door/", DataHeader(Kind.STAT, 3, 0, 0).pack(), body]

    with pytest.raises(BadData):
        Board().receive(frames, 0.0)


def test_a_full_backlog_drops_the_oldest_and_says_how_many() -> None:
    backlog = Backlog(max_events=3, max_bytes=100)

    for number in range(5):
        backlog.push(b"%d" % number)
    first = backlog.take()
    for size in (60, 60):
        backlog.push(b"x" * size)

    assert first == b'event: gap\ndata: {"gap":2}\n\n234'
    assert backlog.take() == b'event: gap\ndata: {"gap":1}\n\n' + b"x" * 60
    assert not backlog


def test_a_backlog_holds_at_least_one_event_however_large() -> None:
    backlog = Backlog(max_bytes=10)

    backlog.push(b"x" * 100)

    assert backlog.take() == b"x" * 100


# over HTTP ------------------------------------------------------------------------------------------------


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, object]]]:
    """(id or event, data) of each event."""
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field in ("id", "event"):
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_predictions_come_as_they_happen_with_their_gaps(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    with http.stream("GET", "/v2/predictions", params={"pipeline": "door"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        peer.wait_for_subscriber(b"v1/pred/door/")
        for seq in (0, 1, 1, 0, 4):
            peer.predict("door", seq)
        peer.predict("door", 99, gen=2)
        peer.predict("door", 0, gen=4)
        found = [event for _, event in zip(range(5), events(response), strict=False)]

    assert [name for name, _ in found] == ["3-0-0", "3-0-1", "gap", "3-0-4", "4-0-0"]
    assert found[2][1] == {"gap": 2, "pipeline_id": "door"}
    assert found[0][1]["image"] == {"width": 640, "height": 480}


def test_what_is_no_prediction_is_dropped_and_ends_no_stream(http: httpx.Client, peer: Peer) -> None:
    with http.stream("GET", "/v2/predictions") as response:
        peer.wait_for_subscriber(b"v1/pred/")
        peer.publish(b"v1/pred/\xff\xfe/", DataHeader(Kind.PRED, 3, 0, 7), {})
        peer.publish(b"v1/pred/odd", DataHeader(Kind.PRED, 3, 0, 0), {})
        for seq, body in enumerate([float("nan"), b"bytes", {b"key": 1}]):
            peer.publish(b"v1/pred/door/", DataHeader(Kind.PRED, 3, 0, seq), body)
        peer.predict("door", 3)
        found = [name for _, (name, _) in zip(range(2), events(response), strict=False)]

    assert found == ["3-0-7", "3-0-3"]
    assert http.get("/list_pipelines").status_code == 200


def test_predictions_of_all_pipelines_come_together(http: httpx.Client, peer: Peer) -> None:
    with http.stream("GET", "/v2/predictions") as response:
        peer.wait_for_subscriber(b"v1/pred/")
        peer.predict("a", 0)
        peer.predict("b", 0)
        found = [data for _, (_, data) in zip(range(2), events(response), strict=False)]

    about = [data["inference_metadata"]["pipeline_id"] for data in found]  # type: ignore[index]
    assert about == ["a", "b"]


@pytest.mark.parametrize(("pipeline_id", "status"), [("nobody", 404), ("a b", 422), ("../x", 422)])
def test_predictions_of_an_unknown_pipeline_are_a_problem(
    http: httpx.Client, pipeline_id: str, status: int
) -> None:
    assert http.get("/v2/predictions", params={"pipeline": pipeline_id}).status_code == status


def test_a_client_that_reads_slowly_loses_the_oldest_is_told_and_keeps_nobody(api: Api, peer: Peer) -> None:
    count, text = 3000, "x" * 4000
    peer.pipelines.update({name: pipeline(name) for name in ("slow", "other")})
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.settimeout(10)
    slow.connect(("127.0.0.1", api.port))
    with slow, api.http.stream("GET", "/v2/predictions?pipeline=slow") as response:
        slow.sendall(b"GET /v2/predictions?pipeline=slow HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        peer.wait_for_subscriber(b"v1/pred/slow/")
        quick = events(response)
        for seq in range(count):
            peer.predict("slow", seq, text=text)
            if seq % 50 == 49:  # whoever reads gets everything, in time
                names = [name for _, (name, _) in zip(range(50), quick, strict=False)]
                assert names == [f"3-0-{each}" for each in range(seq - 49, seq + 1)]
        received = _read_until(slow, f"id: 3-0-{count - 1}\n".encode())

    told_of = sum(
        json.loads(line[6:])["gap"] for line in received.splitlines() if line.startswith(b'data: {"gap"')
    )
    got = received.count(b"id: 3-0-")
    assert told_of > 0
    assert got + told_of == count


def _read_until(connection: socket.socket, mark: bytes) -> bytes:
    received = bytearray()
    while mark not in received[-20_000:]:
        chunk = connection.recv(65_536)
        assert chunk, "the stream ended"
        received += chunk
    return bytes(received)


def test_a_stream_ends_when_the_api_is_told_to_stop(short_dir: object, peer: Peer, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(short_dir)) / "stopping"
    folder.mkdir()
    api = Api(folder, peer)
    with api.http.stream("GET", "/v2/predictions") as response:
        started = time.monotonic()
        api.process.terminate()
        for _ in response.iter_raw():
            pass
        assert api.process.wait(5) == 0
    api.http.close()
    assert time.monotonic() - started < 3
    assert "Traceback" not in api.log.read_text()
