"""`streamfleet up` with the real broker: what dies is started again, and at its end nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import environment, free_port


class Fleet:
    """`streamfleet up` without workers, as a process."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.port = port or free_port()
        command = [sys.executable, "-m", "streamfleet_api.cli", "up", "--data-dir", str(folder / "d")]
        command += ["--workers", "0", "--port", str(self.port), *options]
        for name in ("devices", "relay-in", "relay-out"):
            command += [f"--{name}-port", str(free_port())]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())

    def text(self) -> str:
        """All that it printed."""
        return self.log.read_text()

    def children(self) -> dict[str, int]:
        """Kernel's name to pid of the living processes that this one started."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in path.read_text().split()] if path.exists() else []
        names = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in pids}
        return {name: pid for name, pid in names.items() if alive(pid)}

    def answers(self) -> bool:
        """Does the api reach the broker?"""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/devices", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """SIGTERM, and SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(8)
        finally:
            self.process.kill()
            self.process.wait(5)


def alive(pid: int) -> bool:
    """Is it there, and no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object], fleet: Fleet, timeout: float = 15) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, fleet.text()
        time.sleep(0.02)


Start = Callable[..., Fleet]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts fleets, each in a folder of its own unless told otherwise, and ends them."""
    started: list[Fleet] = []
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))

    def make(*options: str, **settings: Any) -> Fleet:
        where = settings.pop("folder", folder / str(len(started)))
        where.mkdir(parents=True, exist_ok=True)
        started.append(Fleet(where, *options, **settings))
        return started[-1]

    yield make
    for fleet in started:
        fleet.stop()
    shutil.rmtree(folder)


@pytest.fixture
def fleet(start: Start) -> Fleet:
    """One that is ready."""
    return ready(start())


def ready(fleet: Fleet) -> Fleet:
    """Wait until it says so."""
    until(lambda: "Streamfleet is ready." in fleet.text(), fleet)
    return fleet


def test_what_dies_is_started_again(fleet: Fleet) -> None:
    for name in ("sf-api", "sf-broker"):
        killed = fleet.children()[name]
        os.kill(killed, signal.SIGKILL)
        until(lambda killed=killed, name=name: fleet.children().get(name, killed) != killed, fleet)
        until(fleet.answers, fleet)

    assert "api ended with -9, starts again" in fleet.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_ends(fleet: Fleet, number: int) -> None:
    pids = fleet.children().values()
    assert len(pids) == 2

    fleet.process.send_signal(number)

    until(lambda: not any(map(alive, pids)), fleet, timeout=5)
    assert fleet.process.wait(5) == (-number if number == signal.SIGKILL else 0)
    assert "Traceback" not in fleet.text()


def test_two_on_one_data_directory_are_told_apart(fleet: Fleet, start: Start) -> None:
    second = start(folder=fleet.folder)

    assert second.process.wait(10) == 1
    assert "another 'streamfleet up' runs on" in fleet.text()
    assert "--data-dir" in fleet.text()
    assert fleet.answers()


def test_a_taken_port_is_named_by_its_option_and_nothing_is_left(fleet: Fleet, start: Start) -> None:
    second = start(port=fleet.port)

    assert second.process.wait(20) == 1
    assert f"--port {fleet.port}" in second.text()
    assert not second.children()


def test_a_long_data_directory_is_refused_at_once(start: Start, fleet: Fleet) -> None:
    second = start(folder=fleet.folder / ("x" * 80))

    assert second.process.wait(10) == 1
    assert re.search(r"at most \d+ characters", second.text())
    assert "shorter --data-dir" in second.text()


def test_beyond_this_host_the_token_is_demanded_and_shown_once(start: Start) -> None:
    first = ready(start("--host", "0.0.0.0"))
    token = (first.folder / "d/api/token").read_text().strip()
    shown = first.text()
    first.stop()
    first.log.unlink()

    second = ready(start("--host", "0.0.0.0", folder=first.folder))

    assert token in shown
    assert token not in second.text()
    assert "d/api/token" in second.text()
