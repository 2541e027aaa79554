"""What supervisors ask: is this broker, api, device well? And how a device joins without a person."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamfleet_core.runtime.startup import needing
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, free_ports, short_folder

PARTS = ("broker", "worker", "api")
WAIT = f"{PATIENCE:.0f}s"


@dataclass(frozen=True, slots=True)
class Places:
    """A fleet's folder and ports."""

    folder: Path
    ports: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """For the command `streamfleet`."""
        url = f"http://127.0.0.1:{self.ports[0]}"
        return {**os.environ, "STREAMFLEET_URL": url, "STREAMFLEET_DATA_DIR": str(self.folder)}

    def command(self, program: str, *options: str) -> list[str]:
        """One program on its part of the folder."""
        module = f"streamfleet_{program}"
        return [sys.executable, "-m", module, "--data-dir", str(self.folder / program), *options]

    def broker(self) -> list[str]:
        names = ("devices", "relay-in", "relay-out", "pictures-in", "pictures-out")
        ports = (f"--{name}-port={port}" for name, port in zip(names, self.ports[1:], strict=True))
        return self.command("broker", *ports, f"--api-port={self.ports[0]}")

    def api(self) -> list[str]:
        return self.command("api", f"--port={self.ports[0]}", "--manager-port=0")

    def ask(self, program: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A check, or the command line."""
        command = (
            [sys.executable, "-m", "streamfleet_api.cli.main", *options]
            if program == "streamfleet"
            else self.command(program, *options)
        )
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=2 * PATIENCE
        )

    def ask_until_well(self, program: str, *options: str) -> subprocess.CompletedProcess[str]:
        """The first check that is well, or the last one of a patient wait."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.ask(program, *options)
            if answer.returncode == 0 or time.monotonic() > deadline:
                return answer


@pytest.fixture
def places() -> Iterator[Places]:
    with short_folder() as folder:
        yield Places(folder, tuple(free_ports(6)))


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program until the end of a test."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait(PATIENCE)


def test_a_device_joins_by_a_file_and_all_three_say_when_they_are_well(places: Places) -> None:
    token = places.folder / "join/token"

    with ExitStack() as fleet:
        fleet.enter_context(running(places.broker()))
        fleet.enter_context(running(places.api()))
        added = places.ask("streamfleet", "devices", "add", "edge-1", "--to", str(token), "--wait", WAIT)
        without = places.ask("streamfleet", "ready")
        broker = places.ask_until_well("broker", "--check")
        device = fleet.enter_context(running(places.command("worker", "--join-file", str(token))))
        ready = places.ask("streamfleet", "ready", "--wait", WAIT)
        worker = places.ask_until_well("worker", "--check")  # its publisher may have to start first
        token.unlink()  # it is of no use any more
        device.terminate()
        device.wait(PATIENCE)
        fleet.enter_context(running(places.command("worker", "--join-file", str(token))))
        again = places.ask("streamfleet", "ready", "--wait", WAIT)

    assert (added.returncode, token.parent.stat().st_mode & 0o777) == (0, 0o700)
    assert (without.returncode, without.stderr.splitlines()[0]) == (1, "error: no device is ready")
    assert (broker.returncode, broker.stdout) == (0, "0 devices are ready\n")
    assert (ready.returncode, ready.stdout) == (0, "1 of 1 devices are ready\n")
    assert (worker.returncode, worker.stdout) == (0, "edge-1 is ready\n")
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("program", "text"), [("broker", "no reply within 3 s"), ("worker", "no worker has responded for 3.5 s")]
)
def test_where_nobody_runs_nobody_is_well(places: Places, program: str, text: str) -> None:
    asked = places.ask(program, "--check")

    assert asked.returncode == 1
    assert text in asked.stderr
    assert not (places.folder / program).exists()  # a look changes nothing


def test_a_device_without_its_broker_is_not_ready(places: Places) -> None:
    token = places.folder / "token"

    with running(places.broker()) as broker, running(places.api()):
        places.ask("streamfleet", "devices", "add", "edge-1", "--to", str(token), "--wait", WAIT)
        with running(places.command("worker", "--join-file", str(token))):
            ready = places.ask("streamfleet", "ready", "--wait", WAIT)
            broker.kill()
            broker.wait(PATIENCE)
            state = until_unwell(places)
            unready = places.ask("streamfleet", "ready")

    assert ready.returncode == 0
    assert "edge-1: expected a session that is ready, got " in state.stderr
    assert unready.returncode == 1


def until_unwell(places: Places) -> subprocess.CompletedProcess[str]:
    """The first word of a device that is not ready; on a slow machine one may be missed."""
    deadline = time.monotonic() + PATIENCE
    while (state := places.ask("worker", "--check")).returncode == 0 or "has responded" in state.stderr:
        assert time.monotonic() < deadline
    return state


@pytest.mark.parametrize(
    ("program", "extras"),
    [("streamfleet", "api"), ("streamfleet-api", "api"), ("streamfleet-worker", "worker,cpu")],
)
def test_a_program_that_lacks_what_it_needs_says_what_to_install(program: str, extras: str) -> None:
    done = started_with(program)

    shape = rf"{program} needs \w+, which is not installed: pip install 'streamfleet\[{extras}\]'\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(shape, done.stderr), done.stderr


@pytest.mark.parametrize("lacking", ["cv2", "onnxruntime"])
def test_a_worker_lacks_what_its_children_need(lacking: str, tmp_path: Path) -> None:
    for path in Path(pytest.__file__).parents[1].iterdir():
        if path.name != lacking:
            (tmp_path / path.name).symlink_to(path)

    done = started_with("streamfleet-worker", tmp_path)

    text = f"needs {lacking}, which is not installed: pip install 'streamfleet[worker,cpu]'"
    assert (done.returncode, done.stderr) == (2, f"streamfleet-worker {text}\n")


def test_what_is_missing_of_our_own_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), needing("streamfleet", "api"):
        importlib.import_module("streamfleet_api.nothing")


def started_with(program: str, *installed: Path) -> subprocess.CompletedProcess[str]:
    """A program of ours where nothing is installed but what is in these folders."""
    module, _, function = _scripts()[program].partition(":")
    paths = [str(path) for path in (*(ROOT / name for name in PARTS), *installed)]
    code = f"import sys; sys.path[:0] = {paths}; import {module}; {module}.{function}()"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )


def _scripts() -> dict[str, str]:
    """Program → its entry point."""
    lines = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]\n")[2].partition("\n\n")[0]
    return dict(re.findall(r'^([\w-]+) = "(.+)"$', lines, re.MULTILINE))
