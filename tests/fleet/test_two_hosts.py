"""A second machine joins with one token and gets to work. Two network namespaces stand for the machines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port, short_folder
from tests.fleet.harness import BIN, Fleet, Subscriber, marked_processes, wait_for

FIRST, SECOND, TRUSTED = "10.213.77.1", "10.213.77.2", "10.213.77.130"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, timeout=PATIENCE, capture_output=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[list[str], list[str]]]:
    """Two hosts on one wire: what to put before a command to run it on either."""
    names = [f"sf{os.getpid()}a", f"sf{os.getpid()}b"]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip(*f"link add veth0 netns {names[0]} type veth peer name veth0 netns {names[1]}".split())
        for name, address in zip(names, (FIRST, SECOND), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
        ip("-n", names[1], "address", "add", f"{TRUSTED}/24", "dev", "veth0")
        yield (["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]])
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no network namespaces here: {exc.stderr.decode()}")
    finally:
        for name in names:
            subprocess.run(
                ["ip", "netns", "delete", name], check=False, timeout=PATIENCE, capture_output=True
            )


class Worker:
    """`streamfleet-worker` on another host, with a home of its own."""

    def __init__(self, fleet: Fleet, home: Path, prefix: list[str]) -> None:
        self.fleet = fleet
        self.command = [*prefix, str(BIN / "streamfleet-worker"), "--data-dir", str(home / "worker")]
        self.log = home / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it with options."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *options], env=self.fleet.environment, stdout=log, stderr=log
            )

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def fleet_on_first(hosts: tuple[list[str], list[str]], demo_file: Path) -> Iterator[Fleet]:
    """A fleet on the first host that listens on the wire."""
    with short_folder() as home:
        fleet = Fleet(home, "--host", "0.0.0.0", "--trust", f"{TRUSTED}/32", prefix=hosts[0])
        try:
            fleet.start()
            fleet.add_model("shapes/1", demo_file)
            yield fleet
        finally:
            fleet.stop()
            wait_for(lambda: not marked_processes(fleet.mark), "the end of all processes")


@pytest.fixture
def workers(fleet_on_first: Fleet) -> Iterator[Callable[[Path, list[str]], Worker]]:
    """Makes workers, and ends those that a test left running."""
    made: list[Worker] = []

    def make(home: Path, host: list[str]) -> Worker:
        made.append(Worker(fleet_on_first, home, host))
        return made[-1]

    yield make
    for worker in made:
        if worker.process is not None and worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait(PATIENCE)


def first_line(host: list[str], script: Path) -> str:
    """What a program prints first on a host."""
    command = ["timeout", str(PATIENCE), *host, str(BIN / "python"), "-u", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    return line


def device_state(fleet: Fleet, name: str) -> str | None:
    """The state of a device as `streamfleet devices` tells it."""
    devices = json.loads(fleet.cli("devices", "--json").stdout)
    return next((device["state"] for device in devices if device["device"] == name), None)


def test_a_second_host_joins_with_its_token_and_works(
    fleet_on_first: Fleet,
    hosts: tuple[list[str], list[str]],
    workers: Callable[[Path, list[str]], Worker],
) -> None:
    fleet = fleet_on_first
    token = fleet.cli("devices", "add", "edge-1", "--token-only").stdout.strip()
    with short_folder() as home, short_folder() as elsewhere:
        edge = workers(home, hosts[1])
        edge.start("--join", token, "--publish-port", "7780")
        wait_for(
            lambda: device_state(fleet, "edge-1") == "ready",
            lambda: f"edge-1\n{edge.log.read_text()}",
        )
        script = home / "sub.py"
        script.write_text(fleet.cli("keys", "subscriber", "wall").stdout)

        init = (
            "init",
            "--model",
            "shapes/1",
            "--video",
            "TestPatternStreamProducer",
            "--device",
            "edge-1",
            "--json",
        )
        with closing(Subscriber(f"ipc://{fleet.data}/broker/predictions.ipc")) as subscriber:
            pipeline_id = json.loads(fleet.cli(*init).stdout)["context"]["pipeline_id"]
            subscriber.wait_for(pipeline_id, 5)
        relayed = first_line(hosts[1], script)
        script.write_text(fleet.cli("keys", "subscriber", "wall", "--device", "edge-1").stdout)
        direct = first_line(hosts[0], script)

        assert subscriber.of(pipeline_id)[0][1]["inference_metadata"]["device"] == "edge-1"
        assert list((home / "worker/models").iterdir()), "the model was fetched to the second host"
        assert pipeline_id in relayed
        assert f"('{SECOND}', 7780)" in script.read_text()
        assert pipeline_id in direct
        assert len(fleet.cli("tail", "-n", "2").stdout.splitlines()) == 2

        # The token was good for one device: whoever finds it in a shell history gets nothing.
        thief = workers(elsewhere, hosts[1])
        thief.start("--join", token)
        assert thief.process is not None
        assert thief.process.wait(PATIENCE) == 1
        assert "token" in thief.log.read_text()
        assert "Traceback" not in thief.log.read_text()
        assert edge.stop() == 0
        wait_for(lambda: device_state(fleet, "edge-1") in ("left", "lost"), "that edge-1 is gone")

        edge.start("--join", token)
        wait_for(lambda: device_state(fleet, "edge-1") == "ready", "edge-1 once more")
        assert edge.stop() == 0


def test_http_from_the_wire_needs_the_token(
    fleet_on_first: Fleet, hosts: tuple[list[str], list[str]]
) -> None:
    fleet = fleet_on_first
    secret, pin = ((fleet.data / "api" / name).read_text().strip() for name in ("token", "fingerprint"))

    def list_from_second(*options: str, scheme: str = "https") -> subprocess.CompletedProcess[str]:
        url = f"{scheme}://{FIRST}:{fleet.port}"
        return subprocess.run(
            [*hosts[1], str(BIN / "streamfleet"), "--url", url, *options, "pipelines"],
            env={**fleet.environment, "HOME": "/nonexistent", "STREAMFLEET_FINGERPRINT": pin},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    without, wrong, right = (
        list_from_second(),
        list_from_second("--token", "x"),
        list_from_second("--token", secret),
    )

    assert (without.returncode != 0, wrong.returncode != 0, right.returncode) == (True, True, 0)
    assert "token" in without.stderr
    plain = list_from_second("--token", secret, scheme="http")
    assert plain.returncode == 1
    assert "over TLS" in plain.stderr
    assert "--insecure" in plain.stderr


def test_a_trusted_network_needs_no_token(fleet_on_first: Fleet, hosts: tuple[list[str], list[str]]) -> None:
    program = (
        "import http.client, sys\n"
        f"for source in ({SECOND!r}, {TRUSTED!r}):\n"
        f"    http_ = http.client.HTTPConnection({FIRST!r}, {fleet_on_first.port}, {PATIENCE}, (source, 0))\n"
        "    http_.request('GET', '/list_pipelines')\n"
        "    print(http_.getresponse().status)\n"
    )

    command = [*hosts[1], str(BIN / "python"), "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.stdout.split() == ["401", "200"], done.stderr


def test_the_stream_manager_answers_trusted_networks_alone(
    fleet_on_first: Fleet, hosts: tuple[list[str], list[str]]
) -> None:
    program = (
        "import socket\n"
        'command = b\'{"type": "list_pipelines"}\'\n'
        f"for source in ({SECOND!r}, {TRUSTED!r}):\n"
        f"    place = ({FIRST!r}, {fleet_on_first.manager_port})\n"
        f"    with socket.create_connection(place, {PATIENCE}, (source, 0)) as peer:\n"
        "        try:\n"
        "            peer.sendall(len(command).to_bytes(4, 'big') + command)\n"
        "            print(b'success' in peer.recv(4096))\n"
        "        except ConnectionError:\n"
        "            print(False)\n"
    )

    command = [*hosts[1], str(BIN / "python"), "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.stdout.split() == ["False", "True"], done.stderr
    line = f"stream manager: closed the connection of {SECOND}, which is neither this host nor in a network"
    assert line in fleet_on_first.log()


# Listens on the first host or connects from the second one, says so, and says whether it noticed the end.
_CONNECTED = f"""
import sys, zmq
from streamfleet_broker import sockets
from streamfleet_core.runtime import client_socket
endpoint, listens = sys.argv[1:]
with zmq.Context() as context, context.socket(zmq.XPUB if listens else zmq.SUB) as socket:
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    if listens:
        sockets.configure(socket, sockets.DATA_OPTIONS | sockets.SUBSCRIPTION_OPTIONS)
        socket.bind(endpoint)
        print("listens", flush=True)
        assert socket.poll({PATIENCE * 1000})
    else:
        client_socket.configure(socket, largest=1000)
        socket.subscribe(b"")
        socket.connect(endpoint)
    print("connected", flush=True)
    print(bool(monitor.poll({PATIENCE * 1000})), flush=True)
    socket.disable_monitor()
    monitor.close()
"""


def test_both_ends_of_a_silent_connection_notice_that_the_wire_is_cut(
    hosts: tuple[list[str], list[str]],
) -> None:
    endpoint = f"tcp://{FIRST}:{free_port()}"

    def start(host: list[str], listens: str) -> subprocess.Popen[str]:
        command = [
            "timeout",
            str(3 * PATIENCE),
            *host,
            str(BIN / "python"),
            "-c",
            _CONNECTED,
            endpoint,
            listens,
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with start(hosts[0], "listens") as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "listens\n"
        with start(hosts[1], "") as connected:
            assert connected.stdout is not None
            assert [each.readline() for each in (connected.stdout, listening.stdout)] == ["connected\n"] * 2

            ip("-n", hosts[1][-1], "link", "set", "veth0", "down")
            try:
                noticed = [each.readline() for each in (connected.stdout, listening.stdout)]
            finally:
                ip("-n", hosts[1][-1], "link", "set", "veth0", "up")

            assert noticed == ["True\n"] * 2
