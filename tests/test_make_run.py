"""What `make run` does before there is a fleet: it looks at Python and the ports, installs what runs."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, free_ports
from tools.create_environment import environment, pinned


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def look(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`tools/ports.py` by a Python that has nothing installed."""
    kept = {name: value for name, value in os.environ.items() if not re.match("STREAM|PORT$", name)}
    return subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "tools/ports.py"), *arguments],
        capture_output=True,
        text=True,
        env={**kept, **environment},
        timeout=PATIENCE,
        check=False,
    )


def others() -> list[str]:
    """Options that put all ports but HTTP's where nobody listens."""
    names = ("manager", "devices", "relay-in", "relay-out", "pictures-in", "pictures-out")
    return [f"--{name}-port={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]


def test_ports_that_are_taken_are_named_before_anything_is_installed(taken: int) -> None:
    by_option = look("--workers", "2", "--port", str(taken), *others())
    by_environment = look(*others(), STREAM_MANAGEMENT_API_PORT=str(taken))
    ours_first = look(*others(), STREAM_MANAGEMENT_API_PORT=str(taken), STREAMFLEET_PORT="0")
    free = look(*others(), "--port=0", "--demo")

    for found in (by_option, by_environment):
        assert found.returncode == 1
        assert found.stderr.startswith(f"error: --port {taken} is taken")
        assert re.search(r"take other ports: make run ARGS='--port \d+'\n$", found.stderr)
    assert (free.returncode, free.stderr, ours_first.returncode) == (0, "", 0)


def test_where_all_ports_are_taken_a_fleet_runs_already() -> None:
    names = (
        *("--port", "--manager-port", "--devices-port", "--relay-in-port", "--relay-out-port"),
        *("--pictures-in-port", "--pictures-out-port"),
    )
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = [each.getsockname()[1] for each in sockets]
        told = look(*(f"{name}={port}" for name, port in zip(names, ports, strict=True)))

    assert f"a fleet may run here already: http://127.0.0.1:{ports[0]}; for another: make run" in told.stderr
    assert "--data-dir FOLDER" in told.stderr


def test_a_host_that_is_not_ours_is_told() -> None:
    told = look("--host", "192.0.2.1")

    assert told.stderr == "error: --host 192.0.2.1: Cannot assign requested address\n"


@pytest.mark.parametrize("port", ["many", "65536", "-1", "99999999999999999999"])
def test_what_up_itself_refuses_is_left_to_it(port: str) -> None:
    assert look(f"--port={port}", *others()).returncode == 0


@pytest.mark.parametrize("version", ["3.9.2", ""])
def test_a_python_that_is_too_old_or_not_there_is_named(tmp_path: Path, version: str) -> None:
    python = tmp_path / "python"
    if version:
        python.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo Python {version} && exit\nexit 1\n')
        python.chmod(0o755)

    made = subprocess.run(
        ["make", "run", f"PYTHON={python}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    given = f"Python {version}" if version else "not there"
    assert made.returncode == 2
    assert f"error: expected Python 3.10 or newer, {python} is {given}\n" in made.stderr
    assert "make run PYTHON=python3.12" in made.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path, module: str) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None; sys.path.insert(0, {str(ROOT / 'tools')!r})\n"
        f"from create_environment import create; from pathlib import Path\n"
        f"create(Path({str(tmp_path / 'venv')!r}), None)"
    )

    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert made.returncode == 1
    assert "expected a Python with the modules venv and ensurepip" in made.stderr
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in made.stderr
    assert not (tmp_path / "venv").exists()


def test_what_runs_is_a_part_of_what_is_developed_with() -> None:
    run, everything = [(ROOT / name).read_text() for name in ("requirements-run.lock", "requirements.lock")]
    declared = requires("streamfleet")
    assert declared
    needed = [
        re.findall(r"^[a-z-]+", each)[0]
        for each in declared
        if "extra" not in each or re.search(r"extra == .(worker|cpu|api)\b", each)
    ]

    names = set(re.findall(r"^(\S+)==", run, re.MULTILINE))

    assert {*needed, "onnxruntime", "starlette", "hatchling", "editables"} <= names
    assert not names & {"pytest", "mypy", "ruff", "hypothesis", "playwright", "uv", "schemathesis"}
    assert "://" not in run
    assert set(re.findall(r"^\S+==\S+", run, re.MULTILINE)) <= set(
        re.findall(r"^\S+==\S+", everything, re.MULTILINE)
    )


def test_one_package_of_a_lock_comes_with_its_hashes() -> None:
    uv = "uv==2 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    lock = f"a==1 \\\n    --hash=sha256:aa\n    # via x\n{uv}    # via y\nz==3\n"

    assert pinned(lock, "uv") == uv


def test_uv_trusts_whom_the_machine_trusts_unless_somebody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_SYSTEM_CERTS", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert "UV_SYSTEM_CERTS" not in environment()

    (tmp_path / "company.pem").write_text("")
    assert environment()["UV_SYSTEM_CERTS"] == "true"

    monkeypatch.setenv("UV_SYSTEM_CERTS", "false")
    assert environment()["UV_SYSTEM_CERTS"] == "false"
