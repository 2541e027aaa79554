"""Whatever a body, a header or an address is, the answer is a 4xx that says what is wrong. (S20, S22)"""

from __future__ import annotations

import contextlib
import json
import select
import socket
from typing import Any

import httpx
import pytest

from streamfleet_api.roboflow.schemas import PipelineInitialisationRequest
from streamfleet_api.web.json_codec import MAX_VALUES, BadJson, parse_strictly
from streamfleet_api.web.validation import MAX_FOUND, Invalid, validate
from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Api
from tests.fakes.broker import Peer
from tests.fakes.patience import PATIENCE

JSON = {"content-type": "application/json"}


def nested(depth: int) -> bytes:
    """A request whose label is that deep."""
    return b'{"model": "m", "sources": ["x"], "labels": ' + b"[" * depth + b"]" * depth + b"}"


BODIES = {
    "nothing": b"",
    "null": b"null",
    "text": b'"x"',
    "half": b'{"model": "m"',
    "more than one": b"{}{}",
    "no UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "m", "sources": []}'.encode("utf-16"),
    "NaN": b'{"model": "m", "sources": ["x"], "max_fps": NaN}',
    "Infinity": b'{"model": "m", "sources": ["x"], "max_fps": -Infinity}',
    "beyond a double": b'{"model": "m", "sources": ["x"], "max_fps": 1e999}',
    "a long number": b'{"model": "m", "sources": ["x"], "max_fps": ' + b"9" * 4000 + b"}",
    "a longer number": b'{"model": "m", "sources": ["x"], "max_fps": ' + b"9" * 5000 + b"}",
    "a long index": b'{"model": "m", "sources": [' + b"9" * 4000 + b"]}",
    "deep": nested(31),
    "deeper": nested(40),
    "deepest": nested(100_000),
    "a key twice": b'{"model": "a", "model": "b", "sources": ["x"]}',
    "an inner key twice": b'{"model": "a", "sources": ["x"], "labels": {"a": "b", "a": "c"}}',
    "half a character": b'{"model": "m", "sources": ["\\ud800"]}',
    "half a character in a key": b'{"model": "m", "sources": ["x"], "labels": {"\\ud800": "x"}}',
    "half a character as a name": b'{"\\udfff": 1}',
    "a NUL": b'{"model": "m\\u0000", "sources": ["x"]}',
    "many unknown keys": json.dumps({f"k{number}": 0 for number in range(50_000)}).encode(),
    "a long unknown key": json.dumps({"k" * 100_000: 0}).encode(),
    "very many values": b'{"model": "m", "sources": [' + b"{}," * 40_000 + b"{}]}",
    "a long value": json.dumps({"model": "m" * 900_000, "sources": ["x"]}).encode(),
}
TARGETS = [
    ("POST", "/v2/pipelines"),
    ("PUT", "/v2/pipelines/door"),
    ("PATCH", "/v2/pipelines/door"),
    ("POST", "/v2/devices"),
    ("PATCH", "/v2/devices/edge-1"),
    ("PUT", "/v2/models/a/1"),
    ("POST", "/v2/subscribers"),
    ("POST", "/v2/commands"),
]


@pytest.mark.parametrize(("method", "path"), TARGETS)
@pytest.mark.parametrize("content", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_cannot_be_read_is_refused(
    http: httpx.Client, peer: Peer, method: str, path: str, content: bytes
) -> None:
    answer = http.request(method, path, content=content, headers=JSON)

    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"].startswith("body")
    assert problem["errors"]
    assert len(answer.content) < 10_000
    assert not (peer.pipelines or peer.models or peer.devices)


@pytest.mark.parametrize("content", [value for value in BODIES.values() if value not in (b"null", b'"x"')])
def test_the_original_refuses_or_takes_them_too(http: httpx.Client, content: bytes) -> None:
    answer = http.post("/initialise", content=content, headers=JSON)

    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize(
    ("method", "path"), [*TARGETS, ("POST", "/initialise"), ("POST", "/inference_pipelines/initialise")]
)
def test_a_body_of_very_many_values_is_refused_before_each_is_checked(
    http: httpx.Client, method: str, path: str
) -> None:
    """A megabyte of them held the api up for so long that it was taken for hung and killed."""
    body = b'{"video_reference": [' + b"{}," * 300_000 + b"{}]}"

    answer = http.request(method, path, content=body, headers=JSON)

    assert answer.status_code == 422
    assert f"More than {MAX_VALUES} values" in answer.text


def test_a_pipeline_that_fits_into_no_message_is_refused(http: httpx.Client, peer: Peer) -> None:
    """Each of its fields is within its bounds."""
    peer.models["m"] = ModelRef("m", "ab" * 32)
    sources = ["rtsp://10.0.0.1/" + "x" * 4000] * 16

    answer = http.put("/v2/pipelines/door", json={"model": "m", "sources": sources})
    original = http.post("/initialise", json={**REQUEST, "model_id": "m", "video_reference": sources})

    assert answer.status_code == 422
    assert "pipeline door is larger than 65536 bytes" in answer.json()["detail"]
    assert original.status_code < 500
    assert not peer.pipelines


def test_what_many_errors_show_is_gone_through_once() -> None:
    """The whole body, in which several fields are missing."""
    content = {"more": [{"api_key": "secret", "at": "rtsp://u:p@h/x"}] * 3}

    with pytest.raises(Invalid) as raised:
        validate(content, PipelineInitialisationRequest)

    whole = [error["input"] for error in raised.value.errors if error["type"] == "missing"]
    assert len(whole) > 1
    assert all(each is whole[0] for each in whole)
    assert whole[0] == {"more": [{"api_key": "***", "at": "rtsp://h/x"}] * 3}


def test_the_original_lists_a_bounded_number_of_errors(http: httpx.Client) -> None:
    answer = http.post("/initialise", json={"video_reference": [{}] * 20_000})

    assert answer.status_code == 422
    assert len(answer.json()["detail"]) == MAX_FOUND


REQUEST = {
    "model_id": "a",
    "video_reference": "x",
    "sink_configuration": {"type": "udp_sink", "host": "h", "port": 1},
    "video_source_properties": {"fps": 1},
    "api_key": "k",
}
HALVES = [
    {**REQUEST, "model_id": "\ud800"},
    {**REQUEST, "video_reference": "rtsp://h/\udfff"},
    {**REQUEST, "sink_configuration": {"type": "udp_sink", "host": "\ud800", "port": 1}},
    {**REQUEST, "video_source_properties": {"\ud800": 1}},
    {**REQUEST, "api_key": "\ud800"},
    {**REQUEST, "\ud800": 1},
    {**REQUEST, "video_reference": ["\ud800"]},
]


@pytest.mark.parametrize("body", HALVES, ids=json.dumps)
@pytest.mark.parametrize("path", ["/initialise", "/inference_pipelines/initialise"])
def test_half_a_character_is_refused_by_the_original(http: httpx.Client, path: str, body: Any) -> None:
    whole = {"video_configuration": body} if path.startswith("/inference") else body

    answer = http.post(path, content=json.dumps(whole).encode(), headers=JSON)

    assert answer.status_code == 422
    assert "A lone surrogate is not a character" in answer.text


@pytest.mark.usefixtures("nothing_listed")
@pytest.mark.parametrize("body", HALVES, ids=json.dumps)
def test_half_a_character_is_refused_by_the_stream_manager(api: Api, body: Any) -> None:
    payload = json.dumps({"type": "init", **body}).encode()

    with socket.create_connection(("127.0.0.1", api.manager_port), timeout=PATIENCE) as connection:
        connection.sendall(len(payload).to_bytes(4, "big") + payload)
        reply = connection.makefile("rb").read()

    response = json.loads(reply[4:])["response"]
    assert response["status"] == "failure"
    assert api.http.get("/list_pipelines").json()["pipelines"] == []


@pytest.mark.parametrize("name", ["selector", "pipeline", "class", "after", "source", "status"])
@pytest.mark.parametrize("path", ["/v2/pipelines", "/v2/events", "/v2/predictions", "/v2/samples"])
def test_what_is_no_utf_8_in_an_address_is_no_error_of_ours(http: httpx.Client, path: str, name: str) -> None:
    with http.stream("GET", f"{path}?{name}=%ed%a0%80%ff") as answer:
        assert answer.status_code < 500


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""],
)
@pytest.mark.parametrize(("method", "path"), TARGETS)
def test_what_a_foreign_page_could_send_is_no_json(
    http: httpx.Client, method: str, path: str, kind: str
) -> None:
    answer = http.request(method, path, content=b"{}", headers={"content-type": kind})

    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("text", ["%2e%2e", "a%00b", "a" * 65, "%F0%9F%98%80", ".x", "a%20b", "%ff"])
@pytest.mark.parametrize("path", ["/v2/pipelines/{}", "/v2/devices/{}", "/v2/models/{}/1"])
def test_what_is_no_id_is_refused(http: httpx.Client, peer: Peer, path: str, text: str) -> None:
    answer = http.get(path.format(text))

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"][0] == "path"
    assert not peer.asked


@pytest.mark.parametrize(
    "asked", ["bytes=9-1", "bytes=a-", "lines=1-2", "bytes=", "bytes=1-2,4-5", "bytes=1-2\u00b2"]
)
def test_a_range_that_is_none_is_refused(http: httpx.Client, asked: str) -> None:
    digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    http.put(f"/v2/blobs/{digest}", content=b"hello\n")

    answer = http.get(f"/v2/blobs/{digest}", headers={b"range": asked.encode()})

    assert answer.status_code == 400
    assert "expected Range" in answer.json()["detail"]


@pytest.mark.parametrize("value", [{}, [], 0, "x", {"a": [1.5, None, True]}, "é\U0001f600"])
def test_what_is_json_is_read(value: Any) -> None:
    assert parse_strictly(json.dumps(value).encode()) == value


def test_a_key_that_is_there_twice_is_named() -> None:
    with pytest.raises(BadJson, match="The key 'a' occurs twice"):
        parse_strictly(b'[{"b": 0, "a": 1, "a": 1}]')


@pytest.mark.parametrize("begin", [b"GET /", b"GET /healthz HTTP/1.1\r\nx: "], ids=["address", "header"])
def test_a_head_without_an_end_is_refused(api: Api, begin: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as connection:
        connection.sendall(begin)
        with contextlib.suppress(ConnectionError):  # it may have hung up already
            for _ in range(100):  # 1.6 MB in all
                connection.sendall(b"x" * 16_384)
                if select.select([connection], [], [], 0.05)[0]:
                    break
        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert api.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("upgrade", ["", "upgrade: websocket\r\nconnection: upgrade\r\n"])
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("origin", "http://127.0.0.1:{port}", "http://evil.example"),
        ("host", "127.0.0.1:{port}", "evil.example"),
        ("authorization", "Bearer {token}", "Bearer x"),
        ("sec-fetch-site", "same-origin", "cross-site"),
        ("sec-fetch-mode", "navigate", "cors"),
        ("referer", "http://127.0.0.1:{port}/", "http://evil.example/"),
        ("user-agent", "curl", "Mozilla/5.0"),
        ("content-type", "application/json", "text/plain"),
        ("content-length", "0", "0"),
    ],
)
def test_what_access_depends_on_is_said_once(
    api: Api, name: str, first: str, second: str, upgrade: str
) -> None:
    """We would judge by the first, and a proxy or another program by the second."""
    given = {"host": "127.0.0.1", name: first.format(port=api.port, token=api.token)}
    lines = [*(f"{key}: {value}" for key, value in given.items()), f"{name.title()}: {second}"]
    if upgrade:
        lines += ["sec-websocket-version: 13", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="]
    head = "GET /v2/events HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines) + upgrade

    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}\r\n".encode())
        answer = connection.recv(4_096)

    assert answer.startswith(b"HTTP/1.1 400 "), answer


def test_each_proxy_may_add_its_own_header(api: Api) -> None:
    head = f"GET /v2/devices HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {api.token}\r\n"
    head += "x-forwarded-for: 10.0.0.1\r\nx-forwarded-for: 10.0.0.2\r\nvia: 1.1 a\r\nvia: 1.1 b\r\n"

    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}\r\n".encode())

        assert connection.recv(4_096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("codings", [("identity", "gzip"), ("gzip", "identity"), ("gzip",)])
def test_a_body_is_encoded_whichever_header_says_so(http: httpx.Client, codings: tuple[str, ...]) -> None:
    given = [("content-type", "application/json"), *(("content-encoding", each) for each in codings)]

    answer = http.post("/v2/devices", content=b"{}", headers=given)

    assert answer.status_code == 415
    assert "without Content-Encoding" in answer.json()["detail"]


ENDLESS = {
    "trailers": (b"1\r\nx\r\n0\r\n", b"x: y\r\n" * 2_000),
    "one trailer": (b"1\r\nx\r\n0\r\nx: ", b"x" * 12_000),
    "an extension of a chunk": (b"1;", b"x" * 12_000),
}


@pytest.mark.parametrize(("begin", "piece"), ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("host", ["127.0.0.1", "elsewhere.example"])
def test_what_frames_a_body_without_an_end_is_cut_off(
    api: Api, host: str, begin: bytes, piece: bytes
) -> None:
    """Also of a request that is refused, whose body nobody reads."""
    head = f"POST /initialise HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + begin)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            connection.sendall(piece * 4_000)  # 48 MB in all

    assert api.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "more",
    [b"GARBAGE\r\n\r\n", b"GET /" + b"x" * 200_000, b""],
    ids=["garbage", "a long one", "nothing"],
)
def test_a_request_before_one_that_ends_the_connection_is_no_error_of_ours(api: Api, more: bytes) -> None:
    """All but the last under way knew nothing of it, and failed at the closed connection."""
    first = b"GET /list_pipelines HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 2
    for _ in range(5):
        address = "127.0.0.1", api.port
        with socket.create_connection(address, timeout=PATIENCE) as connection, contextlib.suppress(OSError):
            connection.sendall(first + more)
            while more and connection.recv(65_536):  # nothing: it hangs up
                pass

    assert api.http.get("/healthz").status_code == 200
    assert "Traceback" not in api.log.read_text()


def test_a_trailer_is_no_header(api: Api) -> None:
    head = b"POST /v2/models HTTP/1.1\r\nhost: elsewhere.example\r\ntransfer-encoding: chunked\r\n\r\n"
    trailer = f"authorization: Bearer {api.token}\r\nhost: 127.0.0.1\r\n".encode()
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as connection:
        connection.sendall(head + b"0\r\n" + trailer + b"\r\n")

        assert connection.recv(4_096).startswith(b"HTTP/1.1 401 ")
