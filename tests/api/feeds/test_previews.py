"""Pictures: made only while somebody looks, the newest for everybody, and a reason when none comes."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from http.client import HTTPConnection

import httpx
import pytest
from websockets.sync.client import ClientConnection

from streamfleet_api.feeds.previews import MAX_LOOKING
from streamfleet_core.protocol.values import SourceSpec
from tests.api.conftest import Api
from tests.fakes.broker import Peer, pipeline, spec
from tests.fakes.patience import PATIENCE
from tests.fakes.stream_client import websocket

JPEG = b"\xff\xd8 a picture \xff\xd9"


@pytest.fixture
def door(peer: Peer) -> str:
    """A pipeline of two sources whose pictures nobody looks at yet."""
    name = f"door-{peer.generation}"
    peer.pipelines[name] = pipeline(name, spec=replace(spec(), sources=(SourceSpec(0), SourceSpec(1))))
    return name


def parts(response: httpx.Response) -> Iterator[tuple[str, bytes]]:
    """(key, JPEG) of each part of a multipart/x-mixed-replace, as a browser reads it."""
    kind, _, boundary = response.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/x-mixed-replace"
    mark = b"--" + boundary.encode() + b"\r\n"
    received = b""
    for chunk in response.iter_raw():
        received += chunk
        while received.count(mark) > 1:
            _, part, rest = received.split(mark, 2)
            received = mark + rest
            head, _, body = part.partition(b"\r\n\r\n")
            headers = dict(line.lower().split(": ") for line in head.decode().splitlines())
            jpeg = body[: int(headers["content-length"])]
            assert body == jpeg + b"\r\n"
            assert headers["content-type"] == "image/jpeg"
            yield headers["x-streamfleet-key"], jpeg


def test_a_picture_moves_for_whoever_looks(http: httpx.Client, peer: Peer, door: str) -> None:
    with http.stream("GET", f"/v2/pipelines/{door}/pictures") as response:
        peer.wait_for_looker(door)
        came = parts(response)
        found = []
        for seq in range(3):
            peer.picture(door, seq, JPEG + b"%d" % seq)
            found.append(next(came))

    assert found == [(f"{peer.generation}-0-{seq}", JPEG + b"%d" % seq) for seq in range(3)]
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_websocket_gets_the_pictures_of_its_source_as_they_are(api: Api, peer: Peer, door: str) -> None:
    with websocket(api, f"/v2/pipelines/{door}/pictures?source=1") as connection:
        peer.wait_for_looker(door)
        peer.picture(door, 0, b"of the other source")
        peer.picture(door, 0, JPEG, source=1)

        assert connection.recv(timeout=PATIENCE) == JPEG


def test_the_camera_is_asked_once_and_let_go_when_the_last_one_has_left(
    api: Api, peer: Peer, door: str
) -> None:
    path = f"/v2/pipelines/{door}/pictures"
    with websocket(api, path) as first:
        peer.wait_for_looker(door)
        with websocket(api, path) as second:
            peer.picture(door, 0, JPEG)
            assert [each.recv(timeout=PATIENCE) for each in (first, second)] == [JPEG, JPEG]
        peer.picture(door, 1, JPEG)
        assert first.recv(timeout=PATIENCE) == JPEG
        leaves = time.monotonic()

    with websocket(api, path) as third:  # in time: the camera has gone on, or is asked again after a stall
        shown(third, lambda seq: peer.picture(door, seq, JPEG))
    peer.wait_for_no_looker(door)

    assert time.monotonic() - leaves > 2


def shown(connection: ClientConnection, show: Callable[[int], None]) -> None:
    """Show pictures, until one has come."""
    deadline = time.monotonic() + PATIENCE
    for seq in itertools.count(2):
        show(seq)
        with contextlib.suppress(TimeoutError):
            assert connection.recv(timeout=0.5) == JPEG
            return
        assert time.monotonic() < deadline, "no picture came"


def test_one_picture_is_the_next_that_comes(api: Api, peer: Peer, door: str) -> None:
    with closing(HTTPConnection("127.0.0.1", api.port, timeout=PATIENCE)) as connection:
        connection.request("GET", f"/v2/pipelines/{door}/picture")
        peer.wait_for_looker(door)
        peer.picture(door, 0, JPEG)
        answer = connection.getresponse()
        body = answer.read()

    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["x-streamfleet-key"] == f"{peer.generation}-0-0"
    assert body == JPEG


def test_a_picture_that_does_not_come_has_a_reason(http: httpx.Client, peer: Peer, door: str) -> None:
    paused = replace(peer.pipelines[door], status="reconnecting", reason="source 0: no route to it")
    peer.pipelines[door] = paused

    answer = http.get(f"/v2/pipelines/{door}/picture")

    assert answer.status_code == 504
    assert answer.json()["detail"].endswith("the pipeline is reconnecting, source 0: no route to it")


@pytest.mark.parametrize(
    ("path", "status"),
    [("nobody/picture", 404), ("{door}/picture?source=2", 404), ("{door}/pictures?source=x", 422)],
)
def test_what_has_no_pictures_is_a_problem(http: httpx.Client, door: str, path: str, status: int) -> None:
    answer = http.get(f"/v2/pipelines/{path.format(door=door)}")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_so_many_may_look_and_no_more(api: Api, peer: Peer, door: str) -> None:
    path = f"/v2/pipelines/{door}/pictures"
    with ExitStack() as stack:
        for _ in range(MAX_LOOKING):
            stack.enter_context(websocket(api, path))

        answer = api.http.get(path)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "10"


def newest(connection: ClientConnection, last: bytes) -> int:
    """How many pictures came until this one."""
    count = 1
    while connection.recv(timeout=PATIENCE) != last:
        count += 1
    return count


def test_who_looks_slowly_gets_fewer_pictures_and_none_late(api: Api, peer: Peer, door: str) -> None:
    count = 250  # of 50 kB: more than sockets hold
    path = f"/v2/pipelines/{door}/pictures"
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", api.port))
    with websocket(api, path) as quick, websocket(api, path, sock=slow, max_queue=1) as lazy:
        peer.wait_for_looker(door)
        for seq in range(count):
            peer.picture(door, seq, b"%06d" % seq + bytes(50_000))
            quick.recv(timeout=PATIENCE)

        last = b"%06d" % (count - 1) + bytes(50_000)

        assert newest(lazy, last) < count
