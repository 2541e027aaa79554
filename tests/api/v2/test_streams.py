"""What flows, from a relay and a broker to clients on real sockets, as server-sent events and WebSockets."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from streamfleet_api.feeds.complete import MAX_STREAMS
from streamfleet_api.v2.streams import why_nothing
from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_core.protocol.messages import Reply
from streamfleet_core.protocol.requests import ListPipelines, PipelineStatus
from streamfleet_core.protocol.status import DeviceStat
from tests.api.conftest import Api, until
from tests.api.roboflow.test_stream_management import told
from tests.api.web.test_auth import ELSEWHERE
from tests.fakes.broker import Peer, pipeline
from tests.fakes.patience import PATIENCE
from tests.fakes.stream_client import events, first, said, websocket

# missing data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fps", "reason"),
    [
        ("running", 0.3, "it runs on edge-1 at 0.3 frames/s"),
        ("running", 5.0, "it runs on edge-1, but its data does not reach this api"),
        ("running", None, "it runs on edge-1, but its data does not reach this api"),
        ("starting", 0.0, "the pipeline is starting"),
    ],
)
def test_missing_data_has_a_likely_reason(status: PipelineStatus, fps: float | None, reason: str) -> None:
    view = replace(pipeline("door"), device="edge-1", status=status)

    assert why_nothing(view, fps) == reason


# predictions ----------------------------------------------------------------------------------------------


def test_predictions_come_as_they_happen_with_their_gaps(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    generation = peer.generation
    with http.stream("GET", "/v2/predictions", params={"pipeline": "door"}) as response:
        peer.wait_for_followers("door")
        assert response.headers["content-type"].startswith("text/event-stream")
        for seq in (0, 1, 1, 0, 4):
            peer.predict("door", seq)
        peer.predict("door", 99, generation=generation - 1)
        peer.predict("door", 0, generation=generation + 1)
        found = first(response, 5)

    assert [name for name, _ in found] == [
        f"{generation}-0-0",
        f"{generation}-0-1",
        "gap",
        f"{generation}-0-4",
        f"{generation + 1}-0-0",
    ]
    assert found[2][1] == {"gap": 2, "pipeline_id": "door"}
    assert found[0][1]["image"] == {"width": 640, "height": 480}


def test_a_websocket_says_the_same(api: Api, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    with websocket(api, "/v2/predictions?pipeline=door") as connection:
        peer.wait_for_followers("door")
        for seq in (0, 3):
            peer.predict("door", seq)
        found = [said(connection) for _ in range(3)]

    assert [(message["type"], message.get("id")) for message in found] == [
        ("prediction", f"{peer.generation}-0-0"),
        ("gap", None),
        ("prediction", f"{peer.generation}-0-3"),
    ]
    assert found[0]["data"]["predictions"][0]["class"] == "car"
    assert found[1]["data"] == {"gap": 2, "pipeline_id": "door"}


def test_with_since_what_is_missing_is_fetched_and_a_new_connection_continues(
    http: httpx.Client, peer: Peer
) -> None:
    peer.pipelines["door"] = pipeline("door")
    path = "/v2/predictions?pipeline=door&since=now"
    with http.stream("GET", path) as response:
        peer.wait_for_followers("door")
        for seq in (0, 2):
            peer.predict("door", seq)
        request = peer.wait_for_replay()
        peer.replay(request, 1, 2)
        found = first(response, 3)
    peer.wait_for_no_followers()

    assert [number for _, number in ids(found)] == [1, 2, 3]
    assert json.loads(found[1][0])["positions"] == {"door": [peer.generation, 0, 1, "edge-1"]}
    with http.stream("GET", path, headers={"last-event-id": found[1][0]}) as response:
        again = peer.wait_for_replay(after=request)
        assert again.start == (peer.generation, 0, 2)
        peer.replay(again, 2)
        assert ids(first(response, 1)) == [("door", 3)]


def test_with_since_a_websocket_is_told_of_a_gap_with_its_cause(api: Api, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    with websocket(api, "/v2/predictions?pipeline=door&since=now&class=car") as connection:
        peer.wait_for_followers("door")
        for seq in (0, 2):
            peer.predict("door", seq)
        peer.replay(peer.wait_for_replay(), 2)
        found = [said(connection) for _ in range(3)]

    assert [each["type"] for each in found] == ["prediction", "gap", "prediction"]
    assert json.loads(found[1]["id"])["positions"]["door"][2] == 1
    told = {"gap": 1, "pipeline_id": "door", "cause": "unwritten", "device": "edge-1", "first": 1}
    assert found[1]["data"] == {**told, "generation": peer.generation, "incarnation": 0}


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("since=now", "pipeline"),
        ("since=now&selector=site%3Dhall-1&pipeline=door", "selector"),
        ("since=3-0-1&pipeline=door", "since"),
        ("since=now&since=now&pipeline=door", "since"),
        (f"since={'x' * 5000}&pipeline=door", "since"),
        ("since=now&" + "&".join(f"pipeline=p{number}" for number in range(17)), "pipeline"),
    ],
)
def test_since_needs_few_pipelines_and_a_place_that_it_knows(
    http: httpx.Client, peer: Peer, query: str, name: str
) -> None:
    answer = http.get(f"/v2/predictions?{query}")

    assert answer.status_code == 422
    assert [each["loc"] for each in answer.json()["errors"]] == [["query", name]]


def test_the_number_of_streams_with_since_is_bounded(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_STREAMS):
            stack.enter_context(http.stream("GET", "/v2/predictions?pipeline=door&since=now"))
        answer = http.get("/v2/predictions?pipeline=door&since=now")

    assert answer.status_code == 503
    assert f"{MAX_STREAMS} streams with since" in answer.text


def test_what_is_no_prediction_is_dropped_and_ends_no_stream(http: httpx.Client, peer: Peer) -> None:
    with http.stream("GET", "/v2/predictions") as response:
        peer.wait_for_followers()
        peer.publish(b"v1/pred/\xff\xfe/", DataHeader(kind=Kind.PRED, gen=peer.generation, inc=0, seq=0), {})
        peer.publish(b"v1/pred/odd", DataHeader(kind=Kind.PRED, gen=peer.generation, inc=0, seq=0), {})
        for seq, body in enumerate([float("nan"), b"bytes", {b"key": 1}, [1], {"a": float("inf")}]):
            peer.publish(
                b"v1/pred/door/", DataHeader(kind=Kind.PRED, gen=peer.generation, inc=0, seq=seq), body
            )
        peer.predict("door", 5)
        found = [name for name, _ in first(response, 1)]

    assert found == [f"{peer.generation}-0-5"]
    assert http.get("/list_pipelines").status_code == 200


def ids(found: list[tuple[str, Any]]) -> list[tuple[str, int]]:
    """The pipeline and frame of each."""
    about = [data["inference_metadata"] for _, data in found]
    return [(one["pipeline_id"], one["frame_id"]) for one in about]


def test_predictions_are_chosen_by_pipeline_source_class_and_confidence(
    http: httpx.Client, peer: Peer
) -> None:
    peer.pipelines |= {name: pipeline(name) for name in ("a", "b")}
    query = "pipeline=a&pipeline=b&source=1&class=person&min_confidence=0.5"
    with http.stream("GET", f"/v2/predictions?{query}") as response:
        peer.wait_for_followers("a", "b")
        wanted: dict[str, Any] = {"source": 1, "confidence": 0.6, "class": "person"}
        for seq, name, changes in (
            (0, "a", {"source": 0}),
            (1, "a", {"class": "car"}),
            (2, "a", {"confidence": 0.4}),
            (3, "a", {}),
            (0, "c", {}),
            (0, "b", {}),
        ):
            peer.predict(name, seq, **{**wanted, **changes})
        found = first(response, 2)

    assert ids(found) == [("a", 4), ("b", 1)]


def test_predictions_are_chosen_by_the_labels_of_their_pipeline(http: httpx.Client, peer: Peer) -> None:
    labels = {"a": {"site": "hall-1"}, "b": {"site": "hall-2"}, "c": {"site": "hall-1", "line": "2"}}
    peer.pipelines |= {name: pipeline(name, labels=labels[name]) for name in "abc"}
    with http.stream("GET", "/v2/predictions?selector=site%3Dhall-1,line") as response:
        peer.wait_for_followers()
        for name in "abc":
            peer.predict(name, 0)
        found = first(response, 1)

    assert ids(found) == [("c", 1)]


@pytest.mark.parametrize(
    ("query", "status", "expected"),
    [
        ("pipeline=nobody", 404, "no such pipeline"),
        ("pipeline=a+b", 422, "Input should be 1 to 64 letters"),
        ("pipeline=..%2Fx", 422, "Input should be 1 to 64 letters"),
        ("min_confidence=7", 422, "Input should be a number from 0 to 1"),
        ("pipline=a", 422, "Input should be one of the parameters class, device"),
    ],
)
@pytest.mark.parametrize("over", ["sse", "websocket"])
def test_a_wrong_choice_is_a_problem_that_says_what_was_expected(
    api: Api, query: str, status: int, expected: str, over: str
) -> None:
    path = f"/v2/predictions?{query}"
    if over == "sse":
        answer = api.http.get(path)
        came, kind, body = answer.status_code, answer.headers["content-type"], answer.content
    else:
        with pytest.raises(InvalidStatus) as caught:
            websocket(api, path)
        refusal = caught.value.response
        came, kind, body = refusal.status_code, refusal.headers["content-type"], bytes(refusal.body or b"")

    assert (came, kind) == (status, "application/problem+json")
    problem = json.loads(body)
    assert expected in problem["detail"]
    if status == 422:
        (error,) = problem["errors"]
        assert error["loc"] == ["query", query.partition("=")[0]]
        assert error["msg"].startswith(expected)


def test_a_head_request_ends(http: httpx.Client) -> None:
    assert http.head("/v2/predictions").headers["content-type"] == "text/event-stream"


def test_predictions_come_again_when_the_broker_has_restarted(http: httpx.Client, peer: Peer) -> None:
    with http.stream("GET", "/v2/predictions") as response:
        peer.wait_for_followers()
        came = events(response)
        peer.predict("door", 0)
        before = next(came)

        peer.restart_relay()
        peer.wait_for_subscribers(b"v1/pred/", b"v1/last/", b"v1/stat/")
        peer.predict("door", 5)
        after = [next(came), next(came)]

    assert before[0] == f"{peer.generation}-0-0"
    assert [name for name, _ in after] == ["gap", f"{peer.generation}-0-5"]


def test_the_last_prediction_of_each_source_is_kept(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["kept"] = pipeline("kept")
    none_yet = http.get("/v2/pipelines/kept/predictions/last")
    with http.stream("GET", "/v2/predictions?pipeline=kept") as response:
        peer.wait_for_followers("kept")
        for seq, source in ((0, 0), (1, 1), (2, 0)):
            peer.predict("kept", seq, source=source)
        first(response, 3)

    last = http.get("/v2/pipelines/kept/predictions/last")
    of_source = http.get("/v2/pipelines/kept/predictions/last?source=1")
    of_none = http.get("/v2/pipelines/kept/predictions/last?source=2")

    assert none_yet.status_code == of_none.status_code == 404
    assert "since this api started" in none_yet.json()["detail"]
    assert last.headers["x-streamfleet-key"] == f"{peer.generation}-0-2"
    assert last.json()["inference_metadata"]["frame_id"] == 3
    assert of_source.headers["x-streamfleet-key"] == f"{peer.generation}-0-1"


def test_the_last_prediction_is_known_of_what_nobody_follows(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["quiet"] = pipeline("quiet")
    http.get("/v2/pipelines/quiet")  # no list without it is on its way any more, which would end what is kept
    for seq in (7, 6):
        peer.predict("quiet", seq, kind=Kind.LAST)
    with http.stream("GET", "/v2/predictions?pipeline=quiet") as response:
        peer.wait_for_followers("quiet")
        peer.predict("quiet", 8, source=1)
        first(response, 1)

    last = http.get("/v2/pipelines/quiet/predictions/last?source=0")

    assert last.headers["x-streamfleet-key"] == f"{peer.generation}-0-7"


def test_nobody_is_subscribed_to_what_nobody_follows(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    with http.stream("GET", "/v2/predictions?pipeline=door"):
        peer.wait_for_followers("door")

    peer.wait_for_no_followers()


def test_what_came_while_nobody_followed_is_no_gap(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    found = []
    for seq in (0, 50):
        with http.stream("GET", "/v2/predictions?pipeline=door") as response:
            peer.wait_for_followers("door")
            peer.predict("door", seq)
            found += first(response, 1)
        peer.wait_for_no_followers()

    assert [name for name, _ in found] == [f"{peer.generation}-0-0", f"{peer.generation}-0-50"]


def test_of_a_pipeline_that_has_gone_nothing_is_kept(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["gone"] = pipeline("gone")
    with http.stream("GET", "/v2/predictions?pipeline=gone") as response:
        peer.wait_for_followers("gone")
        peer.predict("gone", 0)
        first(response, 1)

    peer.answer = lambda asked: Reply([]) if isinstance(asked, ListPipelines) else peer.honest(asked)
    peer.happen(1, "gone", "gone")

    until(lambda: http.get("/v2/pipelines/gone/predictions/last").status_code == 404)


# statuses -------------------------------------------------------------------------------------------------


def test_statuses_begin_with_the_last_known_and_go_on(api: Api, peer: Peer) -> None:
    peer.pipelines |= {name: pipeline(name) for name in ("watched", "other")}
    until(
        lambda: api.http.get("/v2/pipelines").json()["pipelines"][0]["fps"] == 5.0,
        lambda: peer.tell(replace(told("watched", 5.0), generation=peer.generation), 0),
    )

    with websocket(api, "/v2/status?pipeline=watched") as connection:
        known = said(connection)
        peer.tell(replace(told("other", 1.0), generation=peer.generation), 1)
        peer.tell(
            DeviceStat(device="edge-1", session="ready", capacity=8, pipelines=1, engines=(), at=0.0), 1
        )
        peer.tell(replace(told("watched", 6.0), generation=peer.generation), 1)
        later = said(connection)

    assert (known["type"], known["data"]["pipeline_id"], known["data"]["fps"]) == ("status", "watched", 5.0)
    assert (later["data"]["pipeline_id"], later["data"]["fps"]) == ("watched", 6.0)


def test_the_status_of_a_device_comes_with_those_of_its_pipelines(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["on-7"] = pipeline("on-7", device="edge-7")
    with http.stream("GET", "/v2/status?device=edge-7") as response:
        peer.tell(DeviceStat(device="edge-6", session="ready", capacity=8, pipelines=1, engines=(), at=0.0))
        peer.tell(DeviceStat(device="edge-7", session="ready", capacity=8, pipelines=1, engines=(), at=0.0))
        peer.tell(replace(told("elsewhere", 1.0), generation=peer.generation))
        peer.tell(replace(told("on-7", 1.0), device="edge-7", generation=peer.generation))
        found = [data for _, data in first(response, 2)]

    assert [(one["device"], one.get("pipeline_id")) for one in found] == [
        ("edge-7", None),
        ("edge-7", "on-7"),
    ]


# events ---------------------------------------------------------------------------------------------------


def marks(response: httpx.Response, count: int) -> list[tuple[str, Any]]:
    """The first events. A gap is told before those of a new epoch, silence after a stall of the broker."""
    found = ((name, data) for name, data in events(response) if name not in ("gap", "silence"))
    return [event for _, event in zip(range(count), found, strict=False)]


def next_of(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of this type."""
    while (message := said(connection))["type"] != kind:
        pass
    return message


def test_events_come_as_they_happen_and_are_listed(http: httpx.Client, peer: Peer) -> None:
    with http.stream("GET", "/v2/events") as response:
        peer.happen(1)
        peer.happen(2, state="paused")
        found = marks(response, 2)

    recent = http.get("/v2/events/recent?limit=2").json()
    assert [name for name, _ in found] == [f"{peer.epoch}-1", f"{peer.epoch}-2"]
    assert found[1][1] == recent["events"][1]
    assert found[1][1].items() >= {"epoch": peer.epoch, "n": 2, "id": "door", "state": "paused"}.items()
    assert recent["last"] == f"{peer.epoch}-2"
    assert http.get("/v2/events/recent?limit=0").status_code == 422


def test_a_client_that_was_away_gets_the_events_that_it_missed(api: Api, peer: Peer) -> None:
    with api.http.stream("GET", "/v2/events") as response:
        peer.happen(1)
        ((mark, _),) = marks(response, 1)
    for n in (2, 3):
        peer.happen(n)

    with api.http.stream("GET", "/v2/events", headers={"last-event-id": mark}) as response:
        over_sse = [name for name, _ in marks(response, 2)]
    with websocket(api, f"/v2/events?after={mark}") as connection:
        over_websocket = [next_of(connection, "event") for _ in range(2)]

    assert over_sse == [f"{peer.epoch}-2", f"{peer.epoch}-3"]
    assert [one["id"] for one in over_websocket] == over_sse


def test_events_say_that_the_broker_is_silent_and_go_on_when_it_is_back(api: Api, peer: Peer) -> None:
    with websocket(api, "/v2/events") as connection:
        peer.happen(1)
        before = next_of(connection, "event")
        peer.stop()
        try:
            silence = next_of(connection, "silence")
        finally:
            peer.epoch += 1
            peer.events = []
            peer.start()
        peer.happen(1)
        gap, after = next_of(connection, "gap"), next_of(connection, "event")

    assert before["id"] == f"{peer.epoch - 1}-1"
    assert silence["data"]["seconds"] > 0
    assert gap["data"] == {"gap": None}
    assert after["id"] == f"{peer.epoch}-1"


def test_a_client_that_is_there_before_the_broker_gets_no_event_twice(stopping: Api, peer: Peer) -> None:
    for n in (1, 2):
        peer.happen(n)
    assert stopping.stop() == 0
    peer.stop()
    try:
        stopping.start()
        connection = websocket(stopping, f"/v2/events?after={peer.epoch}-1")
    finally:
        peer.start()

    with connection:
        first = next_of(connection, "event")
        peer.happen(3)
        second = next_of(connection, "event")

    assert [event["id"] for event in (first, second)] == [f"{peer.epoch}-2", f"{peer.epoch}-3"]


# who may --------------------------------------------------------------------------------------------------


# The library writes a `Host` of its own: a proxy's header makes it somebody else's request.
PROXY = {"x-forwarded-for": "203.0.113.9"}


def opened(api: Api, path: str, **options: Any) -> int:
    """The status of a WebSocket."""
    try:
        with websocket(api, path, **options):
            return 101
    except InvalidStatus as exc:
        return exc.response.status_code


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://{host}", 101),
        ("https://{host}", 101),
        ("http://page.example", 403),
        ("http://{host}.page.example", 403),
        ("null", 403),
        ("file://{host}", 403),
    ],
)
def test_no_page_of_somebody_else_gets_a_websocket(api: Api, origin: str | None, status: int) -> None:
    given = None if origin is None else origin.format(host=f"127.0.0.1:{api.port}")

    assert opened(api, "/v2/predictions", origin=given) == status


def test_from_elsewhere_a_websocket_needs_the_token_and_never_in_its_address(api: Api) -> None:
    path = "/v2/predictions"
    wrong, right = ({**PROXY, "authorization": f"Bearer {token}"} for token in ("wrong", api.token))

    assert opened(api, path, additional_headers=PROXY) == 401
    assert opened(api, path, additional_headers=wrong) == 401
    assert opened(api, f"{path}?token={api.token}", additional_headers=PROXY) == 401
    assert opened(api, f"{path}?ticket={api.token}", additional_headers=PROXY) == 401
    assert opened(api, path, additional_headers=right) == 101


def ticket(api: Api) -> str:
    """A new one, for whoever has the token."""
    answer = api.http.post("/v2/tickets", headers={**ELSEWHERE, "authorization": f"Bearer {api.token}"})
    assert answer.status_code == 201
    assert answer.json()["expires_in"] == 30
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["ticket"])


def test_a_ticket_opens_one_stream_once(api: Api, peer: Peer) -> None:
    good = ticket(api)

    assert opened(api, f"/v2/events?ticket={good}", additional_headers=PROXY) == 101
    assert opened(api, f"/v2/events?ticket={good}", additional_headers=PROXY) == 401
    with api.http.stream("GET", f"/v2/status?ticket={ticket(api)}", headers=ELSEWHERE) as response:
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/devices"),
        ("POST", "/v2/tickets"),
        ("GET", "/list_pipelines"),
        ("GET", "/v2/events/recent"),
        ("POST", "/v2/predictions"),
    ],
)
def test_a_ticket_opens_nothing_else(api: Api, method: str, path: str) -> None:
    answer = api.http.request(method, f"{path}?ticket={ticket(api)}", headers=ELSEWHERE)

    assert answer.status_code == 401


def test_a_page_of_somebody_else_gets_no_ticket(http: httpx.Client) -> None:
    assert http.post("/v2/tickets", headers={"origin": "http://page.example"}).status_code == 403


# what a client may not ------------------------------------------------------------------------------------


def test_a_client_that_talks_too_much_is_cut_off(api: Api) -> None:
    with websocket(api, "/v2/predictions") as connection:
        connection.send("hello")
        connection.send("x" * 5000)
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=PATIENCE)

    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


def test_a_client_that_pings_and_reads_nothing_is_cut_off(api: Api) -> None:
    ping = b"\x89\xfd" + b"\0" * 4 + b"x" * 125
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as client:
        head = "GET /v2/events HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        key = "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        client.sendall((head + key).encode())
        assert client.recv(4_096).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            client.sendall(ping * 400_000)  # 52 MB

    assert api.http.get("/healthz").status_code == 200


def test_a_websocket_is_not_compressed(api: Api) -> None:
    address = f"ws://127.0.0.1:{api.port}/v2/predictions"
    with connect(address, proxy=None, open_timeout=PATIENCE, close_timeout=1) as connection:
        assert not connection.protocol.extensions


@pytest.fixture
def stopping(short_dir: Path, peer: Peer) -> Iterator[Api]:
    """An api that the test stops."""
    folder = short_dir / f"stopping-{peer.generation}"
    folder.mkdir()
    api = Api(folder, peer)
    yield api
    api.http.close()
    api.process.kill()
    api.process.wait(PATIENCE)


def test_streams_end_when_the_api_is_told_to_stop(stopping: Api) -> None:
    with (
        stopping.http.stream("GET", "/v2/predictions") as response,
        websocket(stopping, "/v2/events") as connection,
    ):
        stopping.process.terminate()
        for _ in response.iter_raw():
            pass
        with contextlib.suppress(ConnectionClosed):  # to the library, 1012 is an error
            list(connection)
        assert stopping.process.wait(PATIENCE) == 0

    assert connection.close_code in (1001, 1012)  # going away, restarting
    assert "Traceback" not in stopping.log.read_text()
