"""`make run` in a fresh checkout, as a new user has it. Not among the tests: it fetches what a fleet needs.

python -m pytest tests/check_first_hour.py
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, free_ports, short_folder
from tests.fleet.harness import READY, wait_for

_OUTER = ("STREAM", "MAKE", "MFLAGS")  # what belongs to the make, and the fleet, that started us

NAMES = ("port", "manager-port", "devices-port", "relay-in-port", "relay-out-port", "pictures-in-port")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that are in git, and nothing that was made of them."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    return tmp_path


@contextmanager
def made(checkout: Path, home: Path, arguments: str, *, within: float) -> Iterator[str]:
    """`make run`, until the block ends; what it said until it was ready."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OUTER)}
    log = home / "make.log"

    def said() -> str:
        return log.read_text(errors="replace")  # of what is written now, perhaps half a letter

    with log.open("wb") as file:
        process = subprocess.Popen(
            ["make", "run", f"ARGS={arguments}"],
            cwd=checkout,
            env={**kept, "HOME": str(home)},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: READY in said() or process.poll() is not None,
            said,
            timeout=within,
        )
        assert process.poll() is None, said()
        yield said()
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C at a terminal
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)


@pytest.mark.timeout(600)
def test_a_new_user_sees_predictions_and_starts_again_at_once(checkout: Path) -> None:
    ports = free_ports(len(NAMES) + 1)
    arguments = " ".join(
        f"--{name} {port}" for name, port in zip((*NAMES, "pictures-out-port"), ports, strict=True)
    )
    url = f"http://127.0.0.1:{ports[0]}"
    with short_folder() as home:
        with made(checkout, home, arguments, within=300) as said:
            # It is ready after 20 s at most, predictions or not.
            pipelines = wait_for(lambda: playing(url), "predictions of all four cameras")
            has_tools = subprocess.run(
                [str(checkout / ".venv/bin/python"), "-c", "import pytest"], capture_output=True, check=False
            ).returncode
        with made(checkout, home, arguments, within=90) as again:
            pass

    assert said.startswith("installing a virtual environment")
    assert [each["status"] for each in pipelines] == ["running"] * 4
    assert has_tools == 1
    assert "installing" not in again
    # For processes that write none.
    assert list((checkout / ".venv").rglob("scipy/interpolate/__pycache__/*.pyc"))


def playing(url: str) -> list[dict[str, Any]]:
    """The demo's pipelines, once each has predicted something."""
    pipelines = list(httpx.get(f"{url}/v2/pipelines", trust_env=False, timeout=PATIENCE).json()["pipelines"])
    return pipelines if all(each["emitted"] for each in pipelines) else []
