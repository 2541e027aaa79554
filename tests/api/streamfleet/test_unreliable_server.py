"""Both clients in front of a server that drops connections, is overloaded and ends its streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import streamfleet
from streamfleet import AsyncClient, Client, Connection
from streamfleet_api.v2.responses import Pipeline
from tests.fakes.broker import pipeline as a_pipeline
from tests.fakes.patience import PATIENCE

Scripted = tuple[int, dict[str, str], bytes]  # status, headers, body
DROP: Scripted = (0, {}, b"")  # the connection is closed without an answer
BUSY: Scripted = (503, {}, b'{"title": "Service Unavailable", "detail": "no broker answers", "status": 503}')
PIPELINE: Scripted = (200, {}, Pipeline.of(a_pipeline("door"), None).model_dump_json().encode())
EVENTS = {"content-type": "text/event-stream"}


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Script(ThreadingHTTPServer):
    """A server that answers one request after the other as it was told, and keeps them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Scripted] = []
        self.requests: list[Request] = []


class Handler(BaseHTTPRequestHandler):
    server: Script

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.command, self.path, headers, body))
        status, more, content = self.server.answers.pop(0)
        if not status:
            return
        self.send_response(status)
        for name, value in {"connection": "close", **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - of http.server

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Script]:
    made = Script()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), name="script")
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(PATIENCE)


@pytest.fixture
def connection(server: Script, tmp_path: Path) -> Connection:
    return Connection(url=f"http://127.0.0.1:{server.server_port}", data_dir=tmp_path)


def test_a_new_pipeline_is_asked_for_again_under_the_same_key(server: Script, connection: Connection) -> None:
    server.answers = [DROP, BUSY, PIPELINE]

    with Client(connection) as client:
        made = client.create_pipeline("door", model="parts/1", sources=[0])

    assert made.pipeline_id == "door"
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1
    assert len(server.requests) == 3


def test_a_patch_may_have_been_made_and_is_not_sent_again(server: Script, connection: Connection) -> None:
    server.answers = [DROP]

    with Client(connection) as client, pytest.raises(streamfleet.Unreachable) as caught:
        client.patch_pipeline("door", confidence=0.5)

    assert caught.value.was_sent
    assert len(server.requests) == 1


def test_the_attempts_end(server: Script, connection: Connection) -> None:
    server.answers = [BUSY] * 3

    with (
        Client(connection, retries=2) as client,
        pytest.raises(streamfleet.Unavailable, match="503 Service Unavailable: no broker answers"),
    ):
        client.list_pipelines()

    assert len(server.requests) == 3


def test_a_deletion_whose_answer_was_lost_is_done(server: Script, connection: Connection) -> None:
    server.answers = [DROP, (404, {}, b'{"title": "Not Found", "detail": "no such pipeline"}')]

    with Client(connection) as client:
        client.delete_pipeline("door")

    assert [request.method for request in server.requests] == ["DELETE", "DELETE"]


def test_another_program_is_no_api(server: Script, connection: Connection) -> None:
    server.answers = [(200, {}, b"<html>hello</html>"), (404, {}, b"<html>nothing</html>")]

    with Client(connection) as client:
        for _ in range(2):
            with pytest.raises(streamfleet.UnexpectedAnswer):
                client.get_pipeline("door")


def event(epoch: int, n: int) -> bytes:
    content = {
        "epoch": epoch,
        "n": n,
        "at": 1.5,
        "subject": "pipeline",
        "id": "door",
        "state": "running",
        "previous": "",
        "device": None,
        "reason": "",
        "restarts": 0,
    }
    return b"id: %d-%d\ndata: %s\n\n" % (epoch, n, msgspec.json.encode(content))


def prediction(sequence: int) -> bytes:
    about = {"pipeline_id": "door", "frame_id": sequence + 1}
    content = {"image": {}, "predictions": [], "inference_metadata": about}
    return b"id: 1-0-%d\ndata: %s\n\n" % (sequence, msgspec.json.encode(content))


def test_events_are_resumed_behind_the_last_one(server: Script, connection: Connection) -> None:
    server.answers = [(200, EVENTS, event(7, 1)), DROP, BUSY, (200, EVENTS, event(7, 2))]

    with Client(connection) as client:
        events = client.events(timeout=PATIENCE)
        found = [next(events), next(events)]
        events.close()  # type: ignore[attr-defined]

    assert [each.cursor for each in found] == ["7-1", "7-2"]
    assert [request.headers.get("last-event-id") for request in server.requests] == [
        *(None, "7-1", "7-1", "7-1"),
    ]


def test_between_two_connections_predictions_may_be_missing(server: Script, connection: Connection) -> None:
    gap = b'event: gap\ndata: {"gap":3}\n\n'
    server.answers = [
        (200, EVENTS, prediction(0) + gap + prediction(4)),
        (200, EVENTS, prediction(9) + prediction(10)),
    ]

    with Client(connection) as client:
        predictions = client.predictions(timeout=PATIENCE)
        found = [next(predictions) for _ in range(4)]
        predictions.close()  # type: ignore[attr-defined]

    assert [each.missing for each in found] == [0, 3, None, 0]


def test_a_stream_that_ends_again_and_again_is_given_up(server: Script, connection: Connection) -> None:
    server.answers = [(200, EVENTS, b": events follow\n\n")] * 3

    with (
        Client(connection, retries=2) as client,
        pytest.raises(streamfleet.Unreachable, match="the stream ended"),
    ):
        next(client.events())


def test_a_closed_client_reconnects_no_more(server: Script, connection: Connection) -> None:
    server.answers = [(200, EVENTS, event(7, 1))]
    client = Client(connection)
    events = client.events(timeout=PATIENCE)
    next(events)

    client.close()

    with pytest.raises(RuntimeError):
        next(events)


async def test_the_asynchronous_client_does_the_same(server: Script, connection: Connection) -> None:
    server.answers = [
        DROP,
        BUSY,
        PIPELINE,
        (200, EVENTS, event(7, 1)),
        DROP,
        (200, EVENTS, event(7, 2)),
        DROP,
    ]

    async with AsyncClient(connection) as client:
        made = await client.create_pipeline("door", model="parts/1", sources=[0])
        events = client.events(timeout=PATIENCE)
        found = [await anext(events), await anext(events)]
        await events.aclose()  # type: ignore[attr-defined]
        with pytest.raises(streamfleet.Unreachable):
            await client.pause_pipeline("door")

    assert made.pipeline_id == "door"
    assert [each.cursor for each in found] == ["7-1", "7-2"]
