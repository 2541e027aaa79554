"""Whatever a body, a header or an address is, the answer is a 4xx that says what is wrong. (S20, S22)"""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from streamfleet_api.wire import BadJson, parse_strictly
from tests.api.conftest import Api
from tests.api.peer import Peer

JSON = {"content-type": "application/json"}


def nested(depth: int) -> bytes:
    """A wish whose label is that deep."""
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


def test_half_a_character_in_a_property_is_refused_by_the_original(http: httpx.Client) -> None:
    body = (
        b'{"model_id": "a", "video_reference": "x", "sink_configuration": {"host": "h", "port": 1}, '
        b'"video_source_properties": {"\\ud800": 1}}'
    )

    answer = http.post("/initialise", content=body, headers=JSON)

    assert answer.status_code == 400
    assert "video_source_properties" in answer.json()["message"]


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

    answer = http.get(f"/v2/blobs/{digest}", headers={"range": asked.encode()})

    assert answer.status_code == 400
    assert "expected Range" in answer.json()["detail"]


@pytest.mark.parametrize("value", [{}, [], 0, "x", {"a": [1.5, None, True]}, "é\U0001f600"])
def test_what_is_json_is_read(value: Any) -> None:
    assert parse_strictly(json.dumps(value).encode()) == value


def test_a_key_that_is_there_twice_is_named() -> None:
    with pytest.raises(BadJson, match="The key 'a' is there twice"):
        parse_strictly(b'[{"b": 0, "a": 1, "a": 1}]')


@pytest.mark.parametrize("begin", [b"GET /", b"GET /healthz HTTP/1.1\r\nx: "], ids=["address", "header"])
def test_a_head_without_an_end_is_refused(api: Api, begin: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(begin)
        answer = b""
        for _ in range(100):  # 1.6 MB in all
            connection.sendall(b"x" * 16_384)
            connection.settimeout(0.05)
            try:
                answer = connection.recv(4096)
                break
            except TimeoutError:
                connection.settimeout(10)

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert api.http.get("/healthz").status_code == 200
