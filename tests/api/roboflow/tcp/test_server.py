"""The Stream Manager's port with clients that say nothing, trickle, or come in crowds; where it listens."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from streamfleet_api.config import MANAGER_TIMEOUT, BadConfig, parse
from streamfleet_api.main import is_here, listen_for_manager
from streamfleet_api.roboflow.tcp import server
from streamfleet_api.roboflow.tcp.replies import listed
from streamfleet_api.roboflow.tcp.server import ManagerServer, is_known
from streamfleet_core.protocol.requests import GetPipeline
from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Api, environment, until
from tests.fakes.broker import Peer, pipeline
from tests.fakes.manager_client import ask, ask_bytes, connect, framed, received
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port

CROWD = 50  # connections of which the oldest makes room
LIST = framed(b'{"type": "list_pipelines"}')
TIMED_OUT = {
    "status": "failure",
    "error_type": "internal_error",
    "error_class": "TimeoutError",
    "error_message": "timed out",
}
Start = Callable[[], Api]


@pytest.fixture
def start(short_dir: Path, peer: Peer) -> Iterator[Start]:
    """Starts an api with the environment as it is then."""
    started: list[Api] = []

    def make() -> Api:
        folder = short_dir / f"clients-{peer.generation}-{len(started)}"
        folder.mkdir()
        started.append(Api(folder, peer))
        return started[-1]

    yield make
    for api in started:
        assert api.stop() == 0
        assert "Traceback" not in api.log.read_text()


# who is slow ----------------------------------------------------------------------------------------------


def test_whoever_falls_silent_is_told_so_and_left(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_MANAGER_SOCKET_TIMEOUT", "0.3")
    api = start()
    with ExitStack() as stack:
        connections = []
        for said in (b"", b"\0\0", b"\0\0\0\x1a", LIST[:-1]):
            connections.append(stack.enter_context(connect(api.manager_port)))
            connections[-1].sendall(said)

        replies = [received(connection) for connection in connections]

    assert [(reply["response"], reply["pipeline_id"]) for reply in replies] == [(TIMED_OUT, None)] * 4


class Answers:
    """Commands: each is answered at once."""

    def at_once(self, _payload: bytes) -> bytes:
        return listed(())


class Port:
    """A Stream Manager in this process, whose time is the test's to let pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(self._loop, "time", lambda: self.now)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = ManagerServer(self._listener, Answers(), trust=(), timeout=MANAGER_TIMEOUT)  # type: ignore[arg-type]
        self._clients = ExitStack()

    async def __aenter__(self) -> Port:
        await self._server.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._server.close()
        self._clients.close()
        self._listener.close()

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """A client of this address."""
        client = socket.create_connection(self._listener.getsockname(), source_address=(source, 0))
        client.setblocking(False)
        return self._clients.enter_context(client)

    async def say(self, client: socket.socket, content: bytes) -> None:
        await self._loop.sock_sendall(client, content)
        await asyncio.sleep(0)

    async def response(self, client: socket.socket) -> Any:
        """What a client is told until the connection ends."""
        came = b""
        while piece := await self._loop.sock_recv(client, 65_536):
            came += piece
        return json.loads(came[4:])["response"]


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Port]:
    """One that waits for few at a time."""
    monkeypatch.setattr(server, "MAX_READING", CROWD)
    async with Port(monkeypatch) as port:
        yield port


async def test_whoever_goes_on_talking_is_read_to_the_end(port: Port) -> None:
    client = port.connect()

    for at in range(0, len(LIST), 3):
        await port.say(client, LIST[at : at + 3])
        port.now += 0.8 * MANAGER_TIMEOUT  # longer than the limit in all, shorter each time

    assert (await port.response(client))["status"] == "success"


async def test_the_oldest_of_a_crowd_of_silent_clients_makes_room(port: Port) -> None:
    first = port.connect()
    for client in (first, *(port.connect() for _ in range(CROWD))):
        await port.say(client, LIST[:1])

    assert await port.response(first) == TIMED_OUT
    last = port.connect()
    await port.say(last, LIST)
    assert (await port.response(last))["status"] == "success"


async def test_a_crowd_of_one_address_makes_no_client_of_another_go(port: Port) -> None:
    other = port.connect("127.0.0.2")
    await port.say(other, LIST[:-1])
    crowd = [port.connect() for _ in range(CROWD + 50)]
    for client in crowd:
        await port.say(client, LIST[:1])
    assert await port.response(crowd[49]) == TIMED_OUT

    await port.say(other, LIST[-1:])

    assert (await port.response(other))["status"] == "success"


@pytest.mark.usefixtures("nothing_listed")
def test_fifty_silent_and_twenty_slow_clients_keep_nobody_waiting(api: Api, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    over = threading.Event()
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(api.manager_port))
        slow = [stack.enter_context(connect(api.manager_port)) for _ in range(20)]
        talking = threading.Thread(target=trickle, args=(slow, over))
        talking.start()
        try:
            for _ in range(30):  # one behind the other, the silent ones would take longer than `ask` waits
                assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == ["door"]
                assert api.http.get("/list_pipelines").json()["pipelines"] == ["door"]
        finally:
            over.set()
            talking.join(PATIENCE)


def trickle(connections: list[socket.socket], over: threading.Event) -> None:
    """Say a request byte by byte on all of them, but for its last one."""
    with contextlib.suppress(ConnectionError):  # after a stall, all of them were silent for too long
        for byte in LIST[:-1]:
            for connection in connections:
                connection.sendall(bytes([byte]))
            if over.wait(0.02):
                return


def test_a_command_that_nobody_answers_holds_up_no_other(api: Api, peer: Peer) -> None:
    peer.answer = lambda asked: None if isinstance(asked, GetPipeline) else peer.honest(asked)

    def others_come_first() -> bool:
        with connect(api.manager_port) as waiting:
            waiting.sendall(framed(b'{"type": "status", "pipeline_id": "door"}'))
            assert ask(api.manager_port, "list_pipelines")["response"]["status"] == "success"
            assert api.http.get("/list_pipelines").status_code == 200
            return not select.select([waiting], [], [], 0)[0]

    until(others_come_first)  # at once, unless all stands still for as long as a command may take


def test_a_hundred_clients_that_come_at_once_are_all_answered(api: Api) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(api.manager_port)) for _ in range(100)]
        for connection in connections:
            connection.sendall(LIST)

        assert all(received(each)["response"]["status"] == "success" for each in connections)


# what is seen ---------------------------------------------------------------------------------------------


def test_every_door_shows_at_once_what_was_changed_through_another(api: Api, peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    body: dict[str, Any] = {
        "model_id": "parts/1",
        "video_reference": "rtsp://cam/1",
        "sink_configuration": {"host": "127.0.0.1", "port": 9},
        "model_configuration": {},
    }
    for _ in range(10):
        over_tcp = ask(api.manager_port, "init", **body)["pipeline_id"]
        assert api.http.get("/list_pipelines").json()["pipelines"] == [over_tcp]
        over_http = api.http.post("/initialise", json=body).json()["context"]["pipeline_id"]
        assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == [over_tcp, over_http]
        assert api.http.delete(f"/v2/pipelines/{over_tcp}").status_code == 204
        assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == [over_http]
        ask(api.manager_port, "terminate", over_http)
        assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == []


@pytest.mark.usefixtures("nothing_listed")
def test_what_others_changed_is_seen_soon(api: Api, peer: Peer) -> None:
    assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == []
    peer.pipelines["door"] = pipeline("door")

    until(lambda: ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == ["door"])


def test_a_command_that_takes_too_long_fails_at_every_door(
    start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_MANAGER_OPERATIONS_TIMEOUT", "0.2")
    api = start()
    peer.answer = lambda _asked: None

    response = ask(api.manager_port, "status", "door")["response"]
    answer = api.http.get("/status/door")

    text = "Could not communicate with Process Manager: it took longer than 0.2 s"
    assert (response["error_type"], response["error_class"]) == ("internal_error", "TimeoutError")
    assert response["error_message"] == text
    assert (answer.status_code, answer.json()) == (503, {"status": "failure", "message": text})


# where it listens -----------------------------------------------------------------------------------------


def test_it_listens_again_on_its_port_at_once(start: Start) -> None:
    api = start()
    assert ask_bytes(api.manager_port, LIST)["response"]["status"] == "success"

    assert api.stop() == 0
    api.start()

    assert ask_bytes(api.manager_port, LIST)["response"]["status"] == "success"


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({}, 7070),
        ({"PORT": "7001"}, 7001),
        ({"PORT": "7001", "STREAM_MANAGER_PORT": "7002"}, 7002),
        ({"STREAM_MANAGER_PORT": "7002", "STREAMFLEET_MANAGER_PORT": "0"}, 0),
    ],
)
def test_the_port_is_the_one_of_the_originals_variables(variables: dict[str, str], port: int) -> None:
    assert parse([], variables).manager_port == port


@pytest.mark.parametrize("name", ["STREAM_MANAGER_SOCKET_TIMEOUT", "STREAM_MANAGER_OPERATIONS_TIMEOUT"])
@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(BadConfig, match=name):
        parse([], {name: text})


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("0.0.0.0", True),
        ("::", True),
        ("127.0.0.1", True),
        ("localhost", True),
        ("192.0.2.7", False),  # kept for documentation: nobody has it
        ("stream_manager", False),  # the other container, in the original's compose file
        ("", False),
    ],
)
def test_an_address_of_this_machine_is_known_from_others(host: str, here: bool) -> None:
    assert is_here(host) is here


@pytest.mark.parametrize(("variable", "bound"), [("127.0.0.2", "127.0.0.2"), ("stream_manager", "127.0.0.1")])
def test_the_originals_host_is_where_it_listens_if_that_is_here(
    variable: str, bound: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    config = parse(["--manager-port", str(port)], {"STREAM_MANAGER_HOST": variable})

    listener = listen_for_manager(config)

    assert listener is not None
    with listener:
        assert listener.getsockname() == (bound, port)
    assert ("STREAM_MANAGER_HOST=stream_manager is not an address of this machine" in caplog.text) == (
        variable == "stream_manager"
    )


def test_a_taken_port_is_named_by_its_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "streamfleet_api", "--data-dir", str(tmp_path), "--port", "0"]

        done = subprocess.run(
            [*command, "--manager-port", str(port)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    assert done.returncode == 1
    assert f"--manager-port {port} (Address already in use): is it in use?" in done.stderr


@pytest.mark.parametrize(
    ("peer_address", "known"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fe80::1%eth0", False),
    ],
)
def test_who_asks_is_of_this_host_or_of_a_trusted_network(peer_address: str, known: bool) -> None:
    assert is_known(peer_address, (ipaddress.ip_network("10.0.0.0/8"),)) is known
