"""The Stream Manager's port with clients that say nothing, trickle, or come in crowds; where it listens."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamfleet_api.config import SILENCE, BadConfig, parse
from streamfleet_api.entry import is_here, listen_for_manager
from streamfleet_api.manager.server import MAX_READING, is_known
from streamfleet_broker.protocol.requests import GetPipeline
from streamfleet_broker.protocol.values import ModelRef
from tests.api.conftest import Api, environment
from tests.api.manager_client import ask, ask_bytes, connect, framed, received
from tests.api.peer import Peer, pipeline

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
        folder = short_dir / f"clients-{peer.gen}-{len(started)}"
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


def test_whoever_goes_on_talking_is_read_to_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_MANAGER_SOCKET_TIMEOUT", "0.5")
    api = start()

    with connect(api.manager_port) as connection:
        for at in range(0, len(LIST), 3):
            connection.sendall(LIST[at : at + 3])
            time.sleep(0.1)  # longer than the limit in all, shorter each time
        reply = received(connection)

    assert reply["response"]["status"] == "success"


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
            times = []
            for _ in range(100):
                began = time.monotonic()
                assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == ["door"]
                assert api.http.get("/list_pipelines").json()["pipelines"] == ["door"]
                times.append(time.monotonic() - began)
        finally:
            over.set()
            talking.join(10)

    assert max(times) < SILENCE / 5  # each silent client cost the original nearly all of that


def trickle(connections: list[socket.socket], over: threading.Event) -> None:
    """Say a request byte by byte on all of them, but for its last one."""
    for byte in LIST[:-1]:
        for connection in connections:
            connection.sendall(bytes([byte]))
        if over.wait(0.02):
            return


def test_a_command_that_nobody_answers_holds_up_no_other(api: Api, peer: Peer) -> None:
    peer.answer = lambda asked: None if isinstance(asked, GetPipeline) else peer.honest(asked)
    with connect(api.manager_port) as waiting:
        waiting.sendall(framed(b'{"type": "status", "pipeline_id": "door"}'))

        began = time.monotonic()
        assert ask(api.manager_port, "list_pipelines")["response"]["status"] == "success"
        assert api.http.get("/list_pipelines").status_code == 200
        assert time.monotonic() - began < SILENCE / 5


def test_the_oldest_of_a_crowd_of_silent_clients_makes_room(start: Start) -> None:
    api = start()
    with ExitStack() as stack:
        first = stack.enter_context(connect(api.manager_port))
        for _ in range(MAX_READING):
            stack.enter_context(connect(api.manager_port))

        assert received(first)["response"] == TIMED_OUT
        assert ask(api.manager_port, "list_pipelines")["response"]["status"] == "success"


def test_a_hundred_clients_that_come_at_once_are_all_answered(api: Api) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(api.manager_port)) for _ in range(100)]
        for connection in connections:
            connection.sendall(LIST)

        assert all(received(each)["response"]["status"] == "success" for each in connections)


# what is seen ---------------------------------------------------------------------------------------------


def test_every_door_shows_at_once_what_was_changed_through_another(api: Api, peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    wish = {
        "model_id": "parts/1",
        "video_reference": "rtsp://cam/1",
        "sink_configuration": {"host": "127.0.0.1", "port": 9},
        "model_configuration": {},
    }
    for _ in range(10):
        over_tcp = ask(api.manager_port, "init", **wish)["pipeline_id"]
        assert api.http.get("/list_pipelines").json()["pipelines"] == [over_tcp]
        over_http = api.http.post("/initialise", json=wish).json()["context"]["pipeline_id"]
        assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == [over_tcp, over_http]
        assert api.http.delete(f"/v2/pipelines/{over_tcp}").status_code == 204
        assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == [over_http]
        ask(api.manager_port, "terminate", over_http)
        assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == []


def test_what_others_changed_is_seen_soon(api: Api, peer: Peer) -> None:
    assert ask(api.manager_port, "list_pipelines")["response"]["pipelines"] == []
    peer.pipelines["door"] = pipeline("door")

    began = time.monotonic()
    while ask(api.manager_port, "list_pipelines")["response"]["pipelines"] != ["door"]:
        assert time.monotonic() - began < 1.0


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = parse(["--manager-port", str(port)], {"STREAM_MANAGER_HOST": variable})

    listener = listen_for_manager(config)

    assert listener is not None
    with listener:
        assert listener.getsockname() == (bound, port)
    assert ("STREAM_MANAGER_HOST=stream_manager is no address of this machine" in caplog.text) == (
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
            timeout=20,
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
