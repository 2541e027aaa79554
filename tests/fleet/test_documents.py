"""The shell blocks of the README and of the documentation, as they stand there, against the demo.

A block runs unless a comment before it says why not: `<!-- not run: needs a second machine -->`.
A block after `<!-- background -->` is a program that does not end: it runs beside the others.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fleet.harness import BIN, Fleet, wait_for

pytestmark = pytest.mark.timeout(300)  # a document has twenty commands, each of which starts a Python

README, TUTORIAL = Path("README.md"), Path("docs/tutorial.md")
HARDWARE = [Path("docs/how-to/gpu.md"), Path("docs/how-to/jetson.md")]  # an NVIDIA GPU and a Jetson
OTHERS = [Path("docs/how-to/samples.md"), Path("docs/how-to/receive.md"), Path("docs/how-to/backup.md")]
OTHERS += [Path("docs/how-to/filter.md"), Path("docs/how-to/fleet-as-code.md")]
_BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n)?```console\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a console block."""

    text: str
    is_background: bool = False


@pytest.fixture(scope="module")
def demo() -> Iterator[Fleet]:
    """What `make run` starts."""
    with short_folder() as folder:
        fleet = Fleet(folder, "--demo", workers=2)
        try:
            yield fleet.start()
        finally:
            fleet.stop()


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder in which the commands find what they name, and leave what they write."""
    with short_folder() as folder:
        for name in ("api", "demo", "examples"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(BIN.parent)
        yield folder


def commands(path: Path) -> list[Command]:
    """Each command of the console blocks that run; one goes on while its quotes are open."""
    found: list[Command] = []
    for mark, block in _BLOCK.findall((ROOT / path).read_text()):
        assert mark in ("", "background") or re.match(r"not run: \w", mark), (path, mark)
        if mark.startswith("not run"):
            continue
        texts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        found.extend(Command(text.rstrip("\n"), mark == "background") for text in texts)
    return found


def environment(demo: Fleet) -> dict[str, str]:
    """That of a user's shell."""
    return {**demo.environment, "PATH": f"{BIN}:{demo.environment['PATH']}"}


def run(demo: Fleet, checkout: Path, command: str) -> str:
    """What a shell in the checkout prints; of a stream its beginning."""
    if "curl" not in command or " -m " not in command:
        return printed(demo, checkout, command)

    def beginning() -> str | None:
        """Nothing came in the seconds that the document allows: curl is started again."""
        text = printed(
            demo, checkout, f"{command} | head -5", 0, 23, 28
        )  # it is cut off, or its time is over
        return text if "data: " in text else None

    return wait_for(beginning, f"data of {command}")


def printed(demo: Fleet, checkout: Path, command: str, *good: int) -> str:
    """What a command prints that ends with one of these codes, or with 0."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace("http://127.0.0.1:8080", demo.url)],
        cwd=checkout,
        env=environment(demo),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode in (0, *good), (command, done.stdout, done.stderr)
    assert '"errors"' not in done.stdout, command
    return done.stdout


@contextmanager
def running(demo: Fleet, checkout: Path, command: str) -> Iterator[None]:
    """A program beside the others, until the document is through."""
    with (checkout / "background.log").open("wb") as log:
        process = subprocess.Popen(
            shlex.split(command),
            cwd=checkout,
            env=environment(demo),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=PATIENCE)


def is_ready(demo: Fleet, device: str) -> bool:
    """A device may just have been started."""
    devices = demo.http.get("/v2/devices").json()["devices"]
    return any((each["device"], each["state"]) == (device, "ready") for each in devices)


def wait_before(demo: Fleet, command: str) -> None:
    """What a person would wait for: a slow machine takes longer than the document allows."""
    if device := re.search(r"--device (\S+)", command):
        wait_for(lambda: is_ready(demo, device[1]), "the device")
    if picture := re.search(r"streamfleet picture (\S+)", command):
        url = f"/v2/pipelines/{picture[1]}/picture"
        wait_for(lambda: demo.http.get(url).is_success, "a picture")
    if "selector=site=hall-1&class" in command:
        wait_for(lambda: demo.http.get("/v2/pipelines/door").json()["emitted"], "predictions")
    if command.startswith("streamfleet samples"):
        wait_for(lambda: demo.http.get("/v2/samples").json()["datasets"], "a sample")


def follow(demo: Fleet, checkout: Path, path: Path) -> dict[str, str]:
    """What each command of a document printed."""
    said: dict[str, str] = {}
    left = commands(path)
    while left:
        command = left.pop(0)
        if command.is_background:
            with running(demo, checkout, command.text):
                while left and not left[0].is_background:
                    said |= _followed(demo, checkout, left.pop(0).text)
        else:
            said |= _followed(demo, checkout, command.text)
    return said


def _followed(demo: Fleet, checkout: Path, command: str) -> dict[str, str]:
    wait_before(demo, command)
    return {command: run(demo, checkout, command)}


def test_each_command_of_the_readme_works(demo: Fleet, checkout: Path) -> None:
    said = follow(demo, checkout, README)

    assert len(said) >= 12, list(said)
    (started,) = (text for command, text in said.items() if "streamfleet run" in command)
    (streamed,) = (text for command, text in said.items() if "curl -N" in command)
    assert re.fullmatch(r"film (running|starting) on local-\d\n", started)
    assert "data: {" in streamed
    assert (checkout / "film.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_the_client_of_the_readme_works(demo: Fleet, checkout: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / README).read_text(), re.DOTALL)
    (client,) = [block for block in blocks if "import requests" in block]
    file = checkout / "client.py"
    file.write_text(client.replace("http://127.0.0.1:8080", demo.url))

    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=PATIENCE, check=True
    )

    assert "'status': 'success'" in done.stdout


def test_each_command_of_the_tutorial_works(demo: Fleet, checkout: Path) -> None:
    said = follow(demo, checkout, TUTORIAL)

    assert len(said) >= 17, list(said)
    (edge,) = (text for command, text in said.items() if "--device edge-1" in command)
    assert re.fullmatch(r"edge (running|starting) on edge-1\n", edge)
    (devices,) = [text for command, text in said.items() if command == ".venv/bin/streamfleet devices"]
    assert "edge-1" in devices
    assert (checkout / "film.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert demo.http.get("/v2/pipelines/edge").status_code == 404


@pytest.mark.parametrize("path", OTHERS, ids=str)
def test_each_command_of_a_how_to_page_works(demo: Fleet, checkout: Path, path: Path) -> None:
    assert follow(demo, checkout, path)


def test_every_page_with_shell_blocks_is_tested() -> None:
    pages = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]

    assert {path for path in pages if commands(path)} == {TUTORIAL, *OTHERS, *HARDWARE}
    assert len((ROOT / README).read_text().splitlines()) <= 150
