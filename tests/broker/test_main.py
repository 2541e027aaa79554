"""The broker as a process: options, signals, and what is left after a kill."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from streamfleet_broker.__main__ import parse
from streamfleet_broker.config import BrokerConfig, own_addresses
from streamfleet_broker.errors import BadConfig
from streamfleet_core.protocol.limits import MAX_DATA_FRAME
from streamfleet_core.protocol.requests import (
    CreatePipeline,
    FleetView,
    GetFleet,
    ListPipelines,
    PipelineView,
)
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec
from tests.fakes.broker_clients import Operator, Sockets
from tests.fakes.patience import PATIENCE

SPEC = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://10.0.0.9/door"),))


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def command(folder: Path, *options: str) -> list[str]:
    names = ("devices", "relay-in", "relay-out", "pictures-in", "pictures-out")
    ports = (f"--{name}-port=0" for name in names)
    return [sys.executable, "-m", "streamfleet_broker", "--data-dir", str(folder), *ports, *options]


LOG_ROOM = 1024 * 1024  # bytes: it is read at the end only, and a broker whose log is not taken stands still


@contextmanager
def running(folder: Path, *options: str, expected: str = "") -> Iterator[subprocess.Popen[str]]:
    """A broker process that is ready; `expected`: what it complains about before."""
    process = subprocess.Popen(
        command(folder, *options),
        stderr=subprocess.PIPE,
        text=True,
        pipesize=LOG_ROOM,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        if expected:
            assert expected in line, line
            line = process.stderr.readline()
        assert "ready" in line, line + process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def operator(sockets: Sockets, folder: Path) -> Operator:
    peer = sockets.make(zmq.DEALER)
    peer.connect(f"ipc://{folder}/operators.ipc")
    return Operator(peer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(folder: Path, number: int) -> None:
    with running(folder) as process:
        assert Path(f"/proc/{process.pid}/comm").read_text() == "sf-broker\n"

        process.send_signal(number)
        _, log = process.communicate(timeout=PATIENCE)

        assert process.returncode == 0
        assert "stopped" in log
        assert "did not end" not in log
        assert "Traceback" not in log


async def test_every_answered_write_is_there_after_kill_9(folder: Path) -> None:
    answered: list[str] = []
    epochs = []
    for _ in range(3):
        sockets = Sockets()
        with running(folder) as process:
            asking = operator(sockets, folder)
            epochs.append((await asking.get(GetFleet(), FleetView)).epoch)
            enough = len(answered) + 12
            while True:
                if len(answered) == enough:
                    # In the midst of the writes that follow.
                    asyncio.get_running_loop().call_later(0.01, process.kill)
                name = f"p{len(answered)}"
                question = asyncio.ensure_future(
                    asking.get(CreatePipeline(pipeline_id=name, spec=SPEC), PipelineView)
                )
                while not question.done() and process.poll() is None:
                    await asyncio.wait({question}, timeout=0.05)
                if not question.done():
                    question.cancel()
                    break
                answered.append((await question).pipeline_id)
            # The one that was under way may have been written or not: it is asked for again.
        sockets.close()

    sockets = Sockets()
    with running(folder):
        views = await operator(sockets, folder).get(ListPipelines(), tuple[PipelineView, ...])
        sockets.close()

    names = [view.pipeline_id for view in views]
    assert names[: len(answered)] == answered
    assert len(names) <= len(answered) + 1
    assert len(answered) > 30
    assert epochs == [1, 2, 3]


def test_a_taken_port_ends_it_with_the_option_and_no_traceback(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            command(folder, "--relay-out-port", port),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    assert done.returncode == 1
    assert f"--relay-out-port: cannot listen on tcp://127.0.0.1:{port}: the port is taken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["Prüfstand ß", "検査 😀", 'it\'s a "hall" 50%'])
async def test_a_data_directory_may_have_any_letters(folder: Path, name: str) -> None:
    sockets = Sockets()
    with running(folder / name):
        fleet = await operator(sockets, folder / name).get(GetFleet(), FleetView)
    sockets.close()

    assert fleet.epoch == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [("x" * 90, "bytes too long for the sockets in it"), (b"caf\xe9", "its name is not UTF-8")],
)
def test_a_data_directory_in_which_no_socket_can_lie_is_refused(
    folder: Path, name: str | bytes, said: str
) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(name)))
    done = subprocess.run(command(path), capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == 1
    assert "--data-dir: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_in_use_ends_it_with_the_option(folder: Path) -> None:
    with running(folder):
        done = subprocess.run(command(folder), capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == 1
    assert re.search(r"--data-dir: .*another broker is running", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_made_ends_it_with_the_option() -> None:
    done = subprocess.run(
        command(Path("/dev/null/x")), capture_output=True, text=True, timeout=PATIENCE, check=False
    )

    assert done.returncode == 1
    assert "--data-dir: /dev/null/x: Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_key_file_is_named_and_not_shown(folder: Path) -> None:
    (folder / "keys").mkdir()
    path = folder / "keys/broker.key"
    path.touch(0o600)
    path.write_text('{"public": "x", "secret": "hunter2"}')
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == 1
    assert f"{path}: expected a CURVE key pair" in done.stderr
    assert "hunter2" not in done.stderr
    path.chmod(0o644)
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "0600" in done.stderr


def test_options_come_from_the_environment_and_the_command_line_wins() -> None:
    environment = {
        "STREAMFLEET_DATA_DIR": "/srv/x",
        "STREAMFLEET_DEVICES_PORT": "1",
        "STREAMFLEET_ADVERTISE": "a,b",
        "STREAMFLEET_OPERATORS_PORT": "3",
        "STREAMFLEET_API_FINGERPRINT": "/srv/fingerprint",
        "STREAMFLEET_DEVICE_MESSAGES": "20000",
        "STREAMFLEET_DEVICE_BYTES": "200000000",
        "STREAMFLEET_HEARTBEAT": "0.3",
        "STREAMFLEET_LEASE": "3",
        "STREAMFLEET_SPARE": "1",
        "STREAMFLEET_DISPLACE_AFTER": "never",
    }

    found = BrokerConfig(**vars(parse(["--devices-port", "2"], environment)))

    assert found == BrokerConfig(
        data_dir=Path("/srv/x"),
        devices_port=2,
        operators_port=3,
        advertise=("a", "b"),
        api_fingerprint=Path("/srv/fingerprint"),
        device_messages=20_000,
        device_bytes=200_000_000,
        heartbeat=0.3,
        lease=3.0,
        spare=1,
        displace_after=None,
    )
    assert BrokerConfig(**vars(parse(["--data-dir", "d"], {}))) == BrokerConfig(data_dir=Path("d"))
    hosts = parse(["--data-dir", "d", "--advertise", "x", "--advertise", "y"], environment).advertise
    assert hosts == ("x", "y")


@pytest.mark.parametrize("arguments", [["--data-dir", "d", "--devices-port", "70000"], []])
def test_a_wrong_option_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments, {})

    assert ("--devices-port" if arguments else "--data-dir") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"device_messages": 0}, "--device-messages: expected 1 to 1000000000000, got 0"),
        (
            {"device_bytes": 4096},
            f"--device-bytes: expected {MAX_DATA_FRAME} to 1000000000000, got 4096",
        ),
        ({"device_bytes": 10**13}, f"expected {MAX_DATA_FRAME} to 1000000000000, got 10000000000000"),
        ({"spare": 2}, "--spare: expected 0 to 1, got 2"),
        ({"displace_after": -1.0}, "--displace-after: expected 0 to 86400 seconds, or never, got -1"),
    ],
)
def test_a_number_that_an_option_cannot_have_is_refused(option: dict[str, float], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        BrokerConfig(data_dir=Path("d"), **option)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"heartbeat": 0.1}, "--heartbeat: expected 0.2 to 60, got 0.1"),
        ({"lease": float("nan")}, "--lease: expected 2 to 3600, got nan"),
        ({"heartbeat": 3.0}, "--lease: expected at least 5 times --heartbeat, 15, got 10"),
    ],
)
def test_a_lease_of_too_few_heartbeats_is_refused(option: dict[str, float], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        BrokerConfig(data_dir=Path("d"), **option)  # type: ignore[arg-type]


def test_a_broker_on_all_addresses_is_reached_by_each_of_them() -> None:
    config = BrokerConfig(data_dir=Path("d"), host="0.0.0.0")

    assert config.hosts == own_addresses()
    assert config.hosts[-1] == "127.0.0.1"
    assert BrokerConfig(data_dir=Path("d"), host="10.0.0.1").hosts == ("10.0.0.1",)
    assert BrokerConfig(data_dir=Path("d"), advertise=("edge.example",)).hosts == ("edge.example",)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost"])
def test_it_listens_on_the_address_that_it_is_given(folder: Path, host: str) -> None:
    environment = {**os.environ, "STREAMFLEET_HOST": host}
    process = subprocess.Popen(command(folder), env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"devices on tcp://\S+:(\d+)", line)
        assert found, line + process.stderr.read()
        socket.create_connection(("127.0.0.1", int(found[1])), timeout=PATIENCE).close()
    finally:
        process.kill()
        process.communicate()
