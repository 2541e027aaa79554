"""WebSockets that begin or go on as none should: they end, and nothing but a refusal is written about it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed

from streamfleet_api.web.connections import Connections, Limits
from streamfleet_api.web.uvicorn_protocol import WEBSOCKET_FRAMES, BoundedHttp, BoundedWebSocket
from tests.api.conftest import Api, until
from tests.fakes.broker import Peer, pipeline
from tests.fakes.patience import PATIENCE
from tests.fakes.stream_client import websocket

HANDSHAKE = (
    b"GET /v2/events HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def all_of(api: Api, sent: bytes) -> bytes:
    """The whole answer to these bytes, until the api hangs up."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as client:
        client.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(4096):
                answer += piece
    return answer


def test_a_handshake_that_is_refused_leaves_no_error_in_the_log(api: Api) -> None:
    """A page can try in a loop."""
    before = len(api.log.read_text())

    answers = [all_of(api, HANDSHAKE + b"Origin: http://evil.example\r\n\r\n") for _ in range(3)]

    assert all(answer.startswith(b"HTTP/1.1 403") for answer in answers)
    until(lambda: api.http.get("/healthz").status_code == 200)
    assert "ERROR" not in api.log.read_text()[before:]


@pytest.mark.parametrize(
    "first",
    [b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET /v2/events HTTP/1.1\r\nHost: x\r\n\r\n"],
)
def test_a_websocket_begins_after_the_request_before_it_is_answered(api: Api, first: bytes) -> None:
    """Otherwise two answers come over one connection, or the first is written to a closed one."""
    before = len(api.log.read_text())

    answer = all_of(api, first + HANDSHAKE + b"\r\n")

    assert b"101 Switching" not in answer
    assert api.http.get("/healthz").status_code == 200
    assert "ERROR" not in api.log.read_text()[before:]


def test_a_text_that_is_none_ends_its_websocket_alone(api: Api) -> None:
    before = len(api.log.read_text())

    with websocket(api, "/v2/events") as other, websocket(api, "/v2/events") as connection:
        connection.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as ended:
            connection.recv(timeout=PATIENCE)
        other.send("x")

    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1007
    assert "ERROR" not in api.log.read_text()[before:]


FRAMES = {"pings": b"\x89\x80mask", "pieces": b"\x00\x80mask", "texts": b"\x81\x80mask"}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_client_that_sends_frames_without_end_is_left(api: Api, kind: str) -> None:
    """Each costs the loop, which does nothing else meanwhile. Clients of ours have nothing to say."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE) as client:
        client.sendall(HANDSHAKE + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 101")

        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            client.sendall(FRAMES[kind] * 1_000_000)

    assert api.http.get("/healthz").status_code == 200


def upgraded(api: Api, path: str) -> socket.socket:
    """A WebSocket of this path, of which the answer to the handshake was read."""
    client = socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE)
    client.sendall(HANDSHAKE.replace(b"/v2/events", path.encode()) + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101")
    return client


SMALL = {**FRAMES, "pongs": b"\x8a\x80mask", "bytes": b"\x82\x80mask"}


@pytest.mark.parametrize("kind", SMALL)
def test_a_client_that_sends_many_frames_is_closed_with_1008_and_logged_once(api: Api, kind: str) -> None:
    """Tens of thousands of small frames, which are few bytes, held up other clients."""
    before = len(api.log.read_text())
    first = b"\x01\x80mask" if kind == "pieces" else b""

    with upgraded(api, "/v2/events") as client:
        client.sendall(first + SMALL[kind] * (int(WEBSOCKET_FRAMES.burst) + 1))
        answer = b""
        while piece := client.recv(4096):
            answer += piece

    assert answer.endswith(b"\x03\xf0more than 20 frames a second")
    assert api.log.read_text()[before:].count("a WebSocket client is disconnected") == 1


@pytest.mark.parametrize("path", ["predictions", "status", "events", "pipelines/door/pictures"])
def test_each_websocket_has_the_limit_of_frames(api: Api, peer: Peer, path: str) -> None:
    peer.pipelines["door"] = pipeline("door")

    with upgraded(api, f"/v2/{path}") as client:
        client.sendall(SMALL["pongs"] * (int(WEBSOCKET_FRAMES.burst) + 1))
        answer = b""
        while piece := client.recv(4096):
            answer += piece

    assert answer.endswith(b"\x03\xf0more than 20 frames a second")


def test_a_client_within_the_limit_of_frames_stays(api: Api) -> None:
    with upgraded(api, "/v2/events") as client:
        client.sendall(SMALL["pings"] * int(WEBSOCKET_FRAMES.burst))
        answer = b""
        while answer.count(b"\x8a") < WEBSOCKET_FRAMES.burst:
            answer += client.recv(4096)

    assert b"\x88" not in answer


async def test_what_is_sent_to_a_websocket_that_has_just_ended_is_no_error_of_ours() -> None:
    """A message may be on its way when the client breaks the protocol: a traceback was logged."""
    refused: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        try:
            await send({"type": "websocket.send", "text": "late"})
        except BaseException as exc:
            refused.set_result(exc)
        else:
            refused.set_result(None)

    config = uvicorn.Config(
        app,
        http=functools.partial(BoundedHttp, Connections(Limits())),  # type: ignore[arg-type]
        ws=BoundedWebSocket,
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(HANDSHAKE + b"\r\n")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            writer.write(b"\x83\x80mask")  # a frame of no kind that there is

            assert isinstance(await asyncio.wait_for(refused, PATIENCE), OSError)
            writer.close()
        finally:
            await server.shutdown(sockets=[listener])
