"""A live client beside two hundred that are slow or dead: it misses nothing, and all of them are dropped."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.api.conftest import Api
from tests.fakes.broker import Peer, pipeline
from tests.fakes.patience import PATIENCE
from tests.fakes.stream_client import websocket

DEAD = 100  # connected, upgraded, and killed
STILL = 100  # that never read
ROUNDS = 300  # predictions
TEXT = "x" * 2000  # in each prediction
ASK = (
    "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def impatient(short_dir: Path, peer: Peer) -> Iterator[Api]:
    """An api that waits two seconds for nobody."""
    folder = short_dir / f"impatient-{peer.generation}"
    folder.mkdir()
    api = Api(folder, peer, module="tests.fakes.impatient_api")
    peer.wait_for_subscribers(b"v1/last/")
    yield api
    assert api.stop() == 0
    assert "Traceback" not in api.log.read_text()


def connections(api: Api) -> int:
    """Open sockets of the api's process."""
    folder = Path(f"/proc/{api.process.pid}/fd")
    return sum(1 for entry in folder.iterdir() if _target(entry).startswith("socket:"))


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


def memory(api: Api) -> int:
    """Bytes that the api's process has in RAM."""
    return int(Path(f"/proc/{api.process.pid}/statm").read_text().split()[1]) * 4096


def latencies(peer: Peer, live: ClientConnection, first: int) -> list[float]:
    """Milliseconds from a prediction's way into the relay to the live client, which must miss none."""
    found = []
    for seq in range(first, first + ROUNDS):
        sent = time.perf_counter()
        peer.predict("flood", seq, text=TEXT)
        message = json.loads(live.recv(timeout=PATIENCE))
        found.append((time.perf_counter() - sent) * 1000)
        assert (message["type"], message["id"]) == ("prediction", f"{peer.generation}-0-{seq}")
    return found


def crowd(api: Api, stack: ExitStack, path: str) -> list[socket.socket]:
    """Clients that ask for a WebSocket, see that they have it, and read no further."""
    sockets = []
    for _ in range(DEAD + STILL):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", api.port))
        client.sendall(ASK.format(path=path).encode())
        assert client.recv(12) == b"HTTP/1.1 101"
        sockets.append(client)
    return sockets


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def test_two_hundred_slow_or_dead_clients_delay_nobody_and_are_dropped(impatient: Api, peer: Peer) -> None:
    peer.pipelines["flood"] = pipeline("flood")
    path = "/v2/predictions?pipeline=flood"
    with websocket(impatient, path) as live, ExitStack() as stack:
        peer.wait_for_followers("flood")
        alone = latencies(peer, live, 0)
        sockets, before = connections(impatient), memory(impatient)
        clients = crowd(impatient, stack, path)
        for client in clients[:DEAD]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()  # with a reset, as when a program is killed

        among = latencies(peer, live, ROUNDS)
        grown = memory(impatient) - before
        until(
            lambda: connections(impatient) <= sockets,
            lambda: f"{connections(impatient)} sockets are open, {sockets} were",
        )
        after = latencies(peer, live, 2 * ROUNDS)

    for name, found in (("alone", alone), ("among 200", among), ("after", after)):
        p50, p99 = statistics.median(found), statistics.quantiles(found, n=100)[98]
        print(f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    print(f"memory: +{grown / 2**20:.1f} MiB")
    # 100 that never read hold what is in their own buffers; all that waits for them is shared.
    assert grown < 100 * 2**20


def test_a_client_that_reads_slowly_loses_the_oldest_is_told_and_keeps_nobody(api: Api, peer: Peer) -> None:
    # More bytes than sockets hold, and soon: after half a minute the api leaves a client that takes nothing.
    count, text = 1000, 5 * TEXT
    peer.pipelines["flood"] = pipeline("flood")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.settimeout(PATIENCE)
    slow.connect(("127.0.0.1", api.port))
    path = "/v2/predictions?pipeline=flood"
    with slow, websocket(api, path) as live:
        slow.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        peer.wait_for_followers("flood")
        for seq in range(count):
            peer.predict("flood", seq, text=text)
            assert json.loads(live.recv(timeout=PATIENCE))["id"] == f"{peer.generation}-0-{seq}"
        received = _read_until(slow, f"id: {peer.generation}-0-{count - 1}\n".encode())

    told_of = sum(
        json.loads(line[6:])["gap"] for line in received.splitlines() if line.startswith(b'data: {"gap"')
    )
    got = received.count(f"id: {peer.generation}-0-".encode())
    assert told_of > 0
    assert got + told_of == count


def _read_until(connection: socket.socket, mark: bytes) -> bytes:
    received = bytearray()
    while mark not in received[-100_000:]:
        chunk = connection.recv(65_536)
        assert chunk, "the stream ended"
        received += chunk
    return bytes(received)
